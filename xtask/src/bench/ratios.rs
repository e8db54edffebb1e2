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

    /// The median, with the bounds of the middle half.
    pub fn shown_by_quarters(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |quarter: usize| {
            let place = sorted.len().saturating_sub(1) * quarter;
            let (low, part) = (place / 4, (place % 4) as f64 / 4.0);
            let value = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
            // Never beyond the last: its part of what follows is nothing.
            value(low) + if part > 0.0 { part * (value(low + 1) - value(low)) } else { 0.0 }
        };
        format!("{:.2} [{:.2}, {:.2}]", self.median(), at(1), at(3))
    }

    /// The median, with the least and the greatest.
    pub fn shown(&self) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(0.0, f64::max);
        format!("{:.2} [{least:.2}, {most:.2}]", self.median())
    }
}

#[cfg(test)]
mod tests {
    use super::Ratios;

    #[test]
    fn the_middle_half_is_shown_without_what_is_outside_of_it() {
        let ratios = Ratios(vec![0.9, 0.1, 1.0, 9.0, 1.1]);
        assert_eq!(ratios.shown_by_quarters(), "1.00 [0.90, 1.10]");
        assert_eq!(ratios.shown(), "1.00 [0.10, 9.00]");
        let even = Ratios(vec![1.0, 2.0, 3.0, 5.0]);
        assert_eq!(even.shown_by_quarters(), "3.00 [1.75, 3.50]");
    }
}
