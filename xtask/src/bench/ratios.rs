//! Ratios of measurements, one for each round.

/// The ratios of one quantity, one for each round.
#[derive(Clone, Debug, Default)]
pub struct Ratios(pub Vec<f64>);

impl Ratios {
    /// The one in the middle.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The median, with the least and the greatest.
    pub fn shown(&self) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(0.0, f64::max);
        format!("{:.2} [{least:.2}, {most:.2}]", self.median())
    }
}
