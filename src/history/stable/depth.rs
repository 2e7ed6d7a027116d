//! How deeply to trim, by price.

/// What a provider bills for an input token, as shares of its plain price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Prices {
    /// From its prompt cache.
    pub(super) cached: f64,
    /// Read anew, and written to the cache.
    pub(super) written: f64,
}

impl Prices {
    /// Whether a token from the cache is cheaper than one read anew. If not, all that fits is kept.
    pub(super) fn differ(self) -> bool {
        self.written > self.cached
    }
}

/// What a trim is to leave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Depth {
    pub(super) prices: Prices,
    /// How much dearer than at the deepest trims a token of history may be, as a share.
    pub(super) margin: f64,
    /// The average share of the room that is to be filled.
    pub(super) fill: f64,
}

impl Depth {
    /// The share of the room to keep when the prompt grows by this share of the room from call to call.
    ///
    /// Let a trim keep the share `a` of a room of `B` tokens, and let each call add `t` of them. Between trims the fill
    /// grows from `a` to 1, on average `(1+a)/2`. Each call bills its `t` new tokens as read anew (`w`), a trim another
    /// `aB`, and there is one every `(1-a)B/t` calls; all else comes from the cache (`d`). So a token of history costs
    ///
    /// ```text
    /// f(a) = d + (w-d) (t + aB t/((1-a)B)) / (B (1+a)/2) = d + 2 (w-d) (t/B) / (1-a^2)
    /// ```
    ///
    /// A deep trim (`a` near 0) is the cheapest and forgets the most. The share kept is the largest with
    /// `f(a) <= (1+margin) f(0)`, but at least what fills the room as far as is wanted: `a >= 2 fill - 1`. Without a
    /// discount `f` is the same for every `a`, and all that fits is kept.
    pub(super) fn share(&self, growth: f64) -> f64 {
        let Self { prices: Prices { cached, written }, margin, fill } = *self;
        // f(a) = cached + anew / (1-a^2)
        let anew = 2.0 * (written - cached) * growth;
        let allowed = (1.0 + margin) * (cached + anew) - cached;
        let by_price = if anew > 0.0 && allowed > 0.0 { (1.0 - anew / allowed).max(0.0).sqrt() } else { 1.0 };
        by_price.max(2.0 * fill - 1.0).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth(cached: f64) -> Depth {
        Depth { prices: Prices { cached, written: 1.0 }, margin: 0.15, fill: 0.5 }
    }

    fn price(depth: &Depth, growth: f64, share: f64) -> f64 {
        let Prices { cached, written } = depth.prices;
        cached + 2.0 * (written - cached) * growth / (1.0 - share * share)
    }

    #[test]
    fn the_largest_share_within_the_margin() {
        for cached in [0.0, 0.1, 0.25, 0.5, 0.9] {
            for growth in [0.001, 0.03, 0.125, 0.5, 2.0] {
                let depth = depth(cached);
                let share = depth.share(growth);
                let (least, most) = (price(&depth, growth, 0.0), price(&depth, growth, share));
                assert!((most / least - 1.15).abs() < 1e-6, "{cached} {growth}: {share} costs {most}, 0 {least}");
            }
        }
    }

    #[test]
    fn a_smaller_discount_and_smaller_turns_keep_more() {
        let shares = [0.1, 0.25, 0.5, 0.9].map(|cached| depth(cached).share(0.03));
        assert!(shares.is_sorted() && shares[0] > 0.5 && shares[3] > 0.95, "{shares:?}");
        let shares = [1.0, 0.1, 0.01, 0.001].map(|growth| depth(0.1).share(growth));
        assert!(shares.is_sorted() && shares[0] < shares[3], "{shares:?}");
    }

    #[test]
    fn without_a_discount_all_that_fits_stays() {
        assert_eq!(depth(1.0).share(0.03), 1.0);
        assert_eq!(depth(0.1).share(0.0), 1.0, "nothing grows");
    }

    #[test]
    fn the_wanted_fill_is_the_least() {
        let deepest = Depth { margin: 0.0, ..depth(0.1) };
        assert_eq!(deepest.share(0.03), 0.0);
        assert!((Depth { fill: 0.7, ..deepest }.share(0.03) - 0.4).abs() < 1e-9);
        assert_eq!(Depth { fill: 1.0, ..deepest }.share(0.03), 1.0);
    }
}
