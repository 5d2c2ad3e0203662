//! Which packets a fault of the network is about and what happens to them, as rules of the bridge (nftables). Pure.
//!
//! All rules are always given to nftables at once, so there is no moment with half of a fault. A host is known by
//! the bridge's ports that its packets come by: its own, and that of the relay that delays it.

use std::fmt::Write as _;

/// Packets that pass between hosts; every further word narrows them down.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    from: Option<String>,
    to: Option<String>,
    port: Option<u16>,
}

impl Traffic {
    /// Every packet.
    pub fn any() -> Traffic {
        Traffic::default()
    }

    /// What this host sends.
    pub fn from(host: &str) -> Traffic {
        Traffic { from: Some(host.to_owned()), ..Traffic::default() }
    }

    /// What is sent to this host.
    pub fn to(host: &str) -> Traffic {
        Traffic { to: Some(host.to_owned()), ..Traffic::default() }
    }

    /// Of this, what is sent to that host.
    #[must_use]
    pub fn and_to(self, host: &str) -> Traffic {
        Traffic { to: Some(host.to_owned()), ..self }
    }

    /// Of this, TCP and UDP from or to that port (of a datagram in fragments, the first one).
    #[must_use]
    pub fn of_port(self, port: u16) -> Traffic {
        Traffic { port: Some(port), ..self }
    }

    /// The same by the numbers of the hosts.
    pub(super) fn numbered(&self, number: impl Fn(&str) -> u8) -> Match {
        let number = |name: &Option<String>| name.as_deref().map(&number);
        Match { from: number(&self.from), to: number(&self.to), port: self.port }
    }
}

/// [`Traffic`] by the numbers of the hosts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Match {
    pub(super) from: Option<u8>,
    pub(super) to: Option<u8>,
    pub(super) port: Option<u16>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    /// It is lost.
    Lost,
    /// Of TCP and UDP, so many percent are lost.
    LostAtRandom {
        /// 0 to 100.
        percent: u8,
    },
}

/// Every fault of the network that there is.
#[derive(Debug, Default)]
pub(super) struct Rules {
    next_id: u64,
    faults: Vec<(u64, Vec<Match>, Fate)>,
}

impl Rules {
    /// One more fault; its id.
    pub(super) fn add(&mut self, traffic: Vec<Match>, fate: Fate) -> u64 {
        self.next_id += 1;
        self.faults.push((self.next_id, traffic, fate));
        self.next_id
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.faults.retain(|(fault, ..)| *fault != id);
    }

    /// The input of `nft -f` that puts these rules in the place of all others.
    pub(super) fn script(&self) -> String {
        let mut text = String::from(
            "table bridge lab\ndelete table bridge lab\ntable bridge lab {\n chain forward {\n  \
             type filter hook forward priority 0; policy accept;\n",
        );
        for (_, traffic, fate) in &self.faults {
            for traffic in traffic {
                traffic.write(&mut text, *fate);
            }
        }
        text + " }\n}\n"
    }
}

impl Match {
    fn write(self, text: &mut String, fate: Fate) {
        let mut start = String::from("  ");
        let directions = [("iifname", self.from), ("oifname", self.to)];
        for (direction, number) in directions {
            if let Some(number) = number {
                start +=
                    &format!("{direction} {{ \"{}\", \"{}\" }} ", port(number), relayed(number));
            }
        }
        let random = matches!(fate, Fate::LostAtRandom { .. });
        if random || self.port.is_some() {
            start += "meta l4proto { tcp, udp } ";
        }
        let verdict = match fate {
            Fate::Lost => "drop".to_owned(),
            Fate::LostAtRandom { percent } => format!("numgen random mod 100 < {percent} drop"),
        };
        let ends = match self.port {
            None => vec![String::new()],
            Some(port) => ["sport", "dport"].map(|end| format!("th {end} {port} ")).to_vec(),
        };
        for end in ends {
            writeln!(text, "{start}{end}{verdict}").expect("a string takes all");
        }
    }
}

/// The bridge's port of a host.
pub(super) fn port(number: u8) -> String {
    format!("h{number}")
}

/// The bridge's port of the relay that delays a host.
pub(super) fn relayed(number: u8) -> String {
    format!("d{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules between the head and the foot.
    fn rules(traffic: Traffic, fate: Fate) -> Vec<String> {
        let mut rules = Rules::default();
        rules.add(vec![traffic.numbered(|name| name.parse().expect("a number"))], fate);
        let script = rules.script();
        let lines = script.lines().skip(5).take_while(|line| *line != " }");
        lines.map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn one_direction_between_two_hosts_names_the_ports_it_comes_and_leaves_by() {
        let lost = rules(Traffic::from("1").and_to("2"), Fate::Lost);
        assert_eq!(lost, [r#"iifname { "h1", "d1" } oifname { "h2", "d2" } drop"#]);
    }

    #[test]
    fn a_port_is_lost_from_both_ends() {
        let lost = rules(Traffic::to("3").of_port(5060), Fate::Lost);
        let start = r#"oifname { "h3", "d3" } meta l4proto { tcp, udp } th"#;
        assert_eq!(lost, [format!("{start} sport 5060 drop"), format!("{start} dport 5060 drop")]);
    }

    #[test]
    fn random_loss_spares_address_resolution() {
        let lost = rules(Traffic::any(), Fate::LostAtRandom { percent: 5 });
        assert_eq!(lost, ["meta l4proto { tcp, udp } numgen random mod 100 < 5 drop"]);
    }

    #[test]
    fn a_fault_that_is_over_leaves_the_others() {
        let mut rules = Rules::default();
        let any = |port| vec![Traffic::any().of_port(port).numbered(|_| 0)];
        let first = rules.add(any(1), Fate::Lost);
        rules.add(any(2), Fate::Lost);
        rules.remove(first);
        let script = rules.script();
        assert!(!script.contains("th dport 1 ") && script.contains("th dport 2 "), "{script}");
    }
}
