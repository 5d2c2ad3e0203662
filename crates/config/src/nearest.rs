//! The known name that a misspelt one probably means.

/// The nearest of `known`, if it is near enough that suggesting it helps: one mistake in short names, three in long ones.
pub fn nearest<'a>(misspelt: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (distance(misspelt, name), *name))
        .min()
        .filter(|(mistakes, name)| *mistakes <= (name.len().max(misspelt.len()) / 3).clamp(1, 3))
        .map(|(_, name)| name)
}

/// Octets to insert, remove, replace or swap with their neighbour (optimal string alignment);
/// `-` and `_` count as the same, and so do cases.
fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| -> Vec<u8> {
        text.bytes()
            .map(|byte| if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() })
            .collect()
    };
    let (a, b) = (fold(a), fold(b));
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_find_their_name_and_strangers_do_not() {
        let known = ["interval", "allowed_miss_count", "nat_traversal", "count"];
        for (misspelt, meant) in [
            ("intervall", Some("interval")),
            ("intreval", Some("interval")),
            ("allowed-miss-count", Some("allowed_miss_count")),
            ("Count", Some("count")),
            ("nat_travresal", Some("nat_traversal")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(misspelt, &known), meant, "{misspelt}");
        }
    }
}
