//! The network between phones and edges: datagrams that are lost, doubled, delayed and overtake each other.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::random::Random;
use crate::schedule::Moment;

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// What is in it.
    pub bytes: Bytes,
}

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Of a thousand datagrams so many are lost.
    pub loss: u32,
    /// Of a thousand so many come twice.
    pub duplication: u32,
    /// Of a thousand so many take `late` and are overtaken.
    pub lateness: u32,
    /// The usual time under way is between 1 ms and this.
    pub delay_max: Duration,
    /// A late one takes up to this.
    pub late_max: Duration,
}

impl Weather {
    /// Nothing is lost.
    pub const FAIR: Weather = Weather {
        loss: 0,
        duplication: 0,
        lateness: 0,
        delay_max: Duration::from_millis(3),
        late_max: Duration::from_millis(3),
    };
}

/// Decides when, and whether, datagrams arrive.
#[derive(Debug)]
pub struct Network {
    random: Random,
    weather: Weather,
}

impl Network {
    /// A network with that weather.
    pub fn new(random: Random, weather: Weather) -> Network {
        Network { random, weather }
    }

    /// The weather changes.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// When a datagram that leaves now arrives: never, once, or twice.
    pub fn arrivals(&mut self, now: Moment) -> Vec<Moment> {
        let Weather { loss, duplication, .. } = self.weather;
        if self.random.chance(loss) {
            return Vec::new();
        }
        let copies = if self.random.chance(duplication) { 2 } else { 1 };
        (0..copies).map(|_| now + self.delay()).collect()
    }

    fn delay(&mut self) -> Duration {
        let Weather { lateness, delay_max, late_max, .. } = self.weather;
        let most = if self.random.chance(lateness) { late_max } else { delay_max };
        self.random.between(Duration::from_millis(1), most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fair_weather_brings_everything_once_and_soon() {
        let mut network = Network::new(Random::new(1), Weather::FAIR);
        for _ in 0..100 {
            let [arrival] = network.arrivals(Duration::ZERO)[..] else { panic!("once") };
            assert!(arrival <= Weather::FAIR.delay_max);
        }
    }

    #[test]
    fn bad_weather_loses_doubles_and_delays_some() {
        let weather = Weather {
            loss: 300,
            duplication: 300,
            lateness: 300,
            late_max: Duration::from_secs(2),
            ..Weather::FAIR
        };
        let mut network = Network::new(Random::new(1), weather);
        let arrivals: Vec<_> = (0..200).map(|_| network.arrivals(Duration::ZERO)).collect();
        for count in 0..=2 {
            assert!(arrivals.iter().any(|arrivals| arrivals.len() == count), "{count}");
        }
        assert!(arrivals.iter().flatten().any(|arrival| *arrival > Duration::from_secs(1)));
    }
}
