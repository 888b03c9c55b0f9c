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
    /// Whether a larger buffer than a fresh one will not do.
    exact: bool,
    /// Whether the pages of fresh memory are to be present.
    pub(crate) populated: bool,
}

impl Fit {
    /// The rule for `len` bytes in a pool whose pages and cap are given.
    ///
    /// A length beyond the address space saturates; no map of that size is ever granted.
    #[inline]
    pub(crate) fn new(len: usize, page: usize, max_bytes: Option<usize>) -> Self {
        debug_assert!(page.is_power_of_two());
        let fresh = if len < COARSE_FROM {
            // A mask is a division less on the fastest path.
            (len + page - 1) & !(page - 1)
        } else {
            coarse(len, page, max_bytes)
        };
        Self {
            len,
            fresh,
            exact: false,
            populated: true,
        }
    }

    /// The same request, that no buffer serves which is larger than a fresh one.
    pub(crate) fn exact(self) -> Self {
        Self {
            exact: true,
            ..self
        }
    }

    /// The same request, that leaves the first touch of fresh pages to who writes to them.
    pub(crate) fn untouched(self) -> Self {
        Self {
            populated: false,
            ..self
        }
    }

    /// A request that only a buffer of this capacity serves.
    pub(crate) fn of_capacity(capacity: usize) -> Self {
        Self {
            len: capacity,
            fresh: capacity,
            exact: true,
            populated: true,
        }
    }

    /// Largest capacity that may be handed out.
    fn limit(&self) -> usize {
        if self.exact {
            self.fresh
        } else {
            self.fresh.max(self.len.saturating_add(self.len / 8))
        }
    }

    /// Whether a buffer of `capacity` bytes may serve this request.
    pub(crate) fn accepts(&self, capacity: usize) -> bool {
        self.len <= capacity && capacity <= self.limit()
    }

    /// The capacities that may serve this request, smallest to largest.
    pub(crate) fn capacities(&self) -> std::ops::RangeInclusive<usize> {
        self.len..=self.limit()
    }
}

/// Capacity of a large block: whole huge pages, unless that would make a request fail that fits the cap in small ones.
fn coarse(len: usize, page: usize, max_bytes: Option<usize>) -> usize {
    let rounded = |granule| len.checked_next_multiple_of(granule).unwrap_or(usize::MAX);
    let coarse = rounded(HUGE_PAGE);
    if max_bytes.is_none_or(|max| coarse <= max) {
        coarse
    } else {
        rounded(page)
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
