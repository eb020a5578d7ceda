//! What is added to the scores of attention by the distance.

/// What is added to the scores of a head, by the distance from query to key.
#[derive(Clone, Debug)]
pub enum Bias {
    /// The distance times a slope for each head (ALiBi).
    Slopes(Vec<f32>),
    /// A value for each distance from `-reach` to `reach`, beyond which nothing changes (T5).
    Distances {
        /// `[heads, 2 reach + 1]`.
        table: Vec<f32>,
        /// Largest distance.
        reach: usize,
    },
}

impl Bias {
    /// The slopes of ALiBi (arXiv 2108.12409): powers of one ratio for as many heads as the next lower
    /// power of two has, then every second power of its root.
    pub fn alibi(heads: usize, max_bias: f32) -> Bias {
        let whole = match heads.is_power_of_two() {
            true => heads,
            false => heads.next_power_of_two() / 2,
        };
        let slope = |h: usize| {
            let power = match h < whole {
                true => max_bias * (h + 1) as f32 / whole as f32,
                false => max_bias / 2.0 * (2 * (h - whole) + 1) as f32 / whole as f32,
            };
            (-power).exp2()
        };
        Bias::Slopes((0..heads).map(slope).collect())
    }

    /// T5's: `values` `[buckets, heads]`; from a distance of `reach` on all keys are in the last bucket; keys
    /// after the query have half of the buckets if it sees them.
    pub fn buckets(values: &[f32], buckets: usize, reach: usize, both_sides: bool) -> Bias {
        let (heads, end) = (values.len() / buckets, reach as isize);
        let value = |head: usize, distance| {
            let bucket = bucket(distance, buckets, reach, both_sides);
            values[bucket * heads + head]
        };
        let of = |head| (-end..=end).map(move |distance| value(head, distance));
        Bias::Distances {
            table: (0..heads).flat_map(of).collect(),
            reach,
        }
    }

    /// Of `head`, for a key `distance` positions after the query.
    pub fn at(&self, head: usize, distance: isize) -> f32 {
        match self {
            Bias::Slopes(slopes) => slopes[head] * distance as f32,
            Bias::Distances { table, reach } => {
                let reach = *reach as isize;
                let at = (distance.clamp(-reach, reach) + reach) as usize;
                table[head * (2 * reach + 1) as usize + at]
            }
        }
    }
}

/// The bucket of a distance (arXiv 1910.10683): one for each small distance, then ever wider ones.
fn bucket(distance: isize, buckets: usize, reach: usize, both_sides: bool) -> usize {
    let (side, count, away) = match both_sides {
        true if distance > 0 => (buckets / 2, buckets / 2, distance),
        true => (0, buckets / 2, -distance),
        false => (0, buckets, (-distance).max(0)),
    };
    let (exact, away) = (count / 2, away as usize);
    if away < exact {
        return side + away;
    }
    let share = (away as f32 / exact as f32).ln() / (reach as f32 / exact as f32).ln();
    let wide = exact + (share * (count - exact) as f32) as usize;
    side + wide.min(count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_the_published_ones() {
        let both = |d| bucket(d, 32, 128, true);
        let want = [15, 10, 8, 1, 0, 17, 24, 26, 31];
        assert_eq!([-200, -20, -8, -1, 0, 1, 8, 20, 200].map(both), want);
        let causal = |d| bucket(d, 32, 128, false);
        let want = [31, 23, 16, 15, 1, 0, 0];
        assert_eq!([-200, -40, -16, -15, -1, 0, 3].map(causal), want);
        let values: Vec<f32> = (0..64).map(|v| v as f32).collect();
        let bias = Bias::buckets(&values, 32, 128, true);
        assert_eq!(
            [bias.at(1, -200), bias.at(0, 1), bias.at(1, 300)],
            [31.0, 34.0, 63.0]
        );
    }

    /// Against `T5Attention._relative_position_bucket` with `max_distance` other than 128.
    #[test]
    fn buckets_end_where_the_file_says() {
        let of = |reach, both, distances: [isize; 8]| distances.map(|d| bucket(d, 32, reach, both));
        let both = [-2000, -19, -12, -9, 7, 13, 40, 300];
        let causal = [5, -15, -17, -19, -30, -63, -400, -2000];
        let want = [15, 15, 11, 9, 23, 28, 31, 31];
        assert_eq!(of(20, true, both), want);
        assert_eq!(of(64, true, both), [15, 11, 9, 8, 23, 25, 30, 31]);
        assert_eq!(of(1000, true, both), [15, 9, 8, 8, 23, 24, 26, 30]);
        assert_eq!(of(20, false, causal), [0, 15, 20, 28, 31, 31, 31, 31]);
        assert_eq!(of(64, false, causal), [0, 15, 16, 17, 23, 31, 31, 31]);
        assert_eq!(of(1000, false, causal), [0, 15, 16, 16, 18, 21, 28, 31]);
        let values: Vec<f32> = (0..32).map(|v| v as f32).collect();
        let bias = Bias::buckets(&values, 32, 1000, false);
        assert_eq!([bias.at(0, -400), bias.at(0, -5000)], [28.0, 31.0]);
    }

    #[test]
    fn slopes_are_the_published_ones() {
        let slopes = |heads: usize| -> Vec<f32> {
            let bias = Bias::alibi(heads, 8.0);
            (0..heads).map(|h| bias.at(h, 1)).collect()
        };
        assert_eq!(slopes(8)[..2], [0.5, 0.25]);
        assert_eq!(slopes(8)[7], 0.00390625);
        let twelve = slopes(12);
        assert_eq!(twelve[..8], slopes(8));
        for (slope, want) in twelve[8..].iter().zip([
            std::f32::consts::FRAC_1_SQRT_2,
            0.353553,
            0.176777,
            0.088388,
        ]) {
            assert!((slope - want).abs() < 1e-6);
        }
    }
}
