//! What several rounds say together: a median and how far the rounds lie apart.
//!
//! Figures of a shared machine have outliers, so nothing here is a mean. Ratios are taken within a round, whose
//! contenders ran within seconds of each other, and summed up here afterwards: what slows a round down slows both sides.

use serde::{Deserialize, Serialize};

/// The rounds of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle one; of an even number the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// How many there were.
    pub rounds: usize,
}

impl Summary {
    /// Of the figures that are numbers; `None` when there is none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut sorted: Vec<f64> =
            figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Summary { median, min, max, rounds: sorted.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_one_or_the_mean_of_the_middle_two() {
        let odd = Summary::of([9.0, 1.0, 4.0]).expect("it has figures");
        assert_eq!((odd.median, odd.min, odd.max, odd.rounds), (4.0, 1.0, 9.0, 3));
        let even = Summary::of([8.0, 1.0, 2.0, 4.0]).expect("it has figures");
        assert_eq!((even.median, even.rounds), (3.0, 4));
    }

    #[test]
    fn what_is_no_number_does_not_count() {
        assert_eq!(Summary::of([f64::NAN, 2.0]).map(|summary| summary.rounds), Some(1));
        assert_eq!(Summary::of([f64::INFINITY]), None);
        assert_eq!(Summary::of([]), None);
    }
}
