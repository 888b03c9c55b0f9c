//! Where a read's bytes go.

use std::io::IoSliceMut;
use std::mem;

/// Memory that a read fills: one or more pieces, one after the other.
#[derive(Debug, Default)]
pub(super) struct Target<'a> {
    /// No piece is empty.
    pieces: Vec<&'a mut [u8]>,
}

impl<'a> FromIterator<&'a mut [u8]> for Target<'a> {
    fn from_iter<I: IntoIterator<Item = &'a mut [u8]>>(pieces: I) -> Self {
        Self {
            pieces: pieces
                .into_iter()
                .filter(|piece| !piece.is_empty())
                .collect(),
        }
    }
}

impl<'a> Target<'a> {
    /// Bytes that are still to be filled.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// The piece that is filled next.
    pub(super) fn first(&mut self) -> Option<&mut [u8]> {
        self.pieces.first_mut().map(|piece| &mut **piece)
    }

    /// What is still to be filled, piece by piece.
    pub(super) fn pieces(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.pieces.iter_mut().map(|piece| &mut **piece)
    }

    /// Takes the first `len` bytes as filled.
    pub(super) fn advance(&mut self, len: usize) {
        self.split_to(len);
    }

    /// Cuts off the first `len` bytes, or all if there are fewer.
    pub(super) fn split_to(&mut self, len: usize) -> Self {
        let mut rest = len;
        let mut whole = 0;
        while let Some(piece) = self.pieces.get(whole)
            && piece.len() <= rest
        {
            rest -= piece.len();
            whole += 1;
        }
        let mut head: Vec<&'a mut [u8]> = self.pieces.drain(..whole).collect();
        if rest > 0
            && let Some(piece) = self.pieces.first_mut()
        {
            let (front, back) = mem::take(piece).split_at_mut(rest);
            head.push(front);
            *piece = back;
        }
        Self { pieces: head }
    }

    /// Fills the first bytes with `bytes`, which are no more than there is room for.
    pub(super) fn copy_from(&mut self, mut bytes: &[u8]) {
        for piece in &mut self.pieces {
            let (now, later) = bytes.split_at(piece.len().min(bytes.len()));
            piece[..now.len()].copy_from_slice(now);
            bytes = later;
        }
        debug_assert!(bytes.is_empty(), "more bytes than room");
    }

    /// The pieces as the system wants them.
    pub(super) fn io_slices(&mut self) -> Vec<IoSliceMut<'_>> {
        self.pieces
            .iter_mut()
            .map(|piece| IoSliceMut::new(piece))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_to_the_pieces_in_turn() {
        let mut memory = [[0; 3], [0; 3], [0; 3]];
        let [a, b, c] = &mut memory;
        let mut target: Target<'_> = [&mut a[..], &mut [], &mut b[..2], &mut c[..]]
            .into_iter()
            .collect();
        assert_eq!(
            (target.len(), target.first().map(|piece| piece.len())),
            (8, Some(3))
        );
        target.copy_from(&[1, 2, 3, 4]);
        target.advance(4);
        assert_eq!(target.first().map(|piece| piece.len()), Some(1));
        let mut middle = target.split_to(2);
        assert_eq!((middle.len(), target.len()), (2, 2));
        middle.copy_from(&[5, 6]);
        target.copy_from(&[7, 8]);
        target.advance(2);
        assert_eq!((target.len(), target.first().is_none()), (0, true));
        assert_eq!(target.split_to(9).len(), 0);
        assert_eq!(memory, [[1, 2, 3], [4, 5, 0], [6, 7, 8]]);
    }
}
