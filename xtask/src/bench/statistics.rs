//! Numbers from samples. The machine is shared and noisy: medians and minimums are what lasts.

/// A share of samples, in percent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Percent(pub(super) usize);

/// The middle sample, or the mean of the two in the middle.
pub(super) fn median(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

pub(super) fn minimum(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

/// The smallest sample that is not exceeded by this share of all (the nearest-rank method): always
/// one that was measured. Of few samples a high percentile is the maximum.
pub(super) fn percentile(samples: &[f64], share: Percent) -> f64 {
    let sorted = sorted(samples);
    let rank = (sorted.len() * share.0).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_depend_on_the_order() {
        assert!((median(&[9.0, 1.0, 5.0]) - 5.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
        assert!((minimum(&[4.0, 1.0, 3.0]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_percentile_is_a_sample_that_few_exceed() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(&samples, Percent(95)) - 95.0).abs() < 1e-9);
        assert!((percentile(&samples, Percent(99)) - 99.0).abs() < 1e-9);
        assert!((percentile(&samples[..10], Percent(95)) - 100.0).abs() < 1e-9);
        assert!((percentile(&[7.0], Percent(50)) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn of_no_samples_there_is_no_number() {
        assert!(median(&[]).is_nan() && minimum(&[]).is_nan());
        assert!(percentile(&[], Percent(95)).is_nan());
    }
}
