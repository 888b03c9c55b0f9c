//! Size rules: how much memory a request maps, and which recycled buffers may serve it.

/// Capacities are whole small pages; the slots pack capacities in this unit.
pub(crate) const SMALL_PAGE: usize = 4 << 10;
/// Alignment, and from [`COARSE_FROM`] the granule, of large blocks.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
/// From here capacities are whole huge pages: at most 2 MiB in 16, so 12.5 %, is added.
const COARSE_FROM: usize = 16 << 20;

/// What a request of `len` bytes accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit {
    /// Bytes asked for.
    pub(crate) len: usize,
    /// Capacity of the block that is mapped when nothing idle fits.
    pub(crate) fresh: usize,
    /// Largest capacity that may be handed out.
    limit: usize,
}

impl Fit {
    /// The rule for `len` bytes in a pool whose pages and cap are given.
    ///
    /// A length beyond the address space saturates; no map of that size is ever granted.
    pub(crate) fn new(len: usize, page: usize, max_bytes: Option<usize>) -> Self {
        let paged = round_up(len, page);
        let fresh = if len >= COARSE_FROM {
            // A coarse granule must not make a request fail that fits the cap in pages.
            Some(round_up(len, HUGE_PAGE))
                .filter(|&coarse| max_bytes.is_none_or(|max| coarse <= max))
                .unwrap_or(paged)
        } else {
            paged
        };
        Self {
            len,
            fresh,
            limit: fresh.max(len.saturating_add(len / 8)),
        }
    }

    /// The same request, that no buffer serves which is larger than a fresh one.
    pub(crate) fn exact(self) -> Self {
        Self {
            limit: self.fresh,
            ..self
        }
    }

    /// Whether a buffer of `capacity` bytes may serve this request.
    pub(crate) fn accepts(&self, capacity: usize) -> bool {
        self.len <= capacity && capacity <= self.limit
    }

    /// The capacities that may serve this request, smallest to largest.
    pub(crate) fn capacities(&self) -> std::ops::RangeInclusive<usize> {
        self.len..=self.limit
    }
}

/// Rounds up to a granule that is a power of two: a mask is a division less on the fastest path.
fn round_up(len: usize, granule: usize) -> usize {
    debug_assert!(granule.is_power_of_two());
    match len.checked_add(granule - 1) {
        Some(sum) => sum & !(granule - 1),
        None => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn fit(len: usize) -> Fit {
        Fit::new(len, SMALL_PAGE, None)
    }

    #[test]
    fn small_requests_round_to_pages_and_large_ones_to_huge_pages() {
        for (len, fresh) in [
            (1, 4096),
            (4096, 4096),
            (4097, 8192),
            (MIB, MIB),
            (3 * MIB + 1, 3 * MIB + 4096),
            (16 * MIB, 16 * MIB),
            (16 * MIB + 1, 18 * MIB),
            (147 * MIB + 5, 148 * MIB),
        ] {
            assert_eq!(fit(len).fresh, fresh, "{len}");
        }
    }

    #[test]
    fn waste_is_bounded_but_for_page_rounding() {
        for len in [
            1,
            4095,
            64 << 10,
            MIB,
            16 * MIB - 1,
            16 * MIB + 1,
            999 * MIB + 3,
        ] {
            let fit = fit(len);
            assert!(fit.accepts(fit.fresh));
            let most = len.next_multiple_of(SMALL_PAGE).max(len + len / 8);
            assert!(*fit.capacities().end() <= most, "{len}");
            assert!(!fit.accepts(most + 1) && !fit.accepts(len - 1));
        }
    }

    #[test]
    fn a_request_that_fits_the_cap_in_pages_is_not_rounded_past_it() {
        assert_eq!(
            Fit::new(33 * MIB, SMALL_PAGE, Some(33 * MIB)).fresh,
            33 * MIB
        );
        assert_eq!(
            Fit::new(33 * MIB, SMALL_PAGE, Some(34 * MIB)).fresh,
            34 * MIB
        );
    }

    #[test]
    fn absurd_lengths_saturate() {
        assert_eq!(fit(usize::MAX).fresh, usize::MAX);
        assert!(fit(usize::MAX - 1).fresh > isize::MAX as usize);
    }
}
