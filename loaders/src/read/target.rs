//! Where a read's bytes go.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem;

use crate::plan::Gaps;

/// What a read does with the bytes of the file: some fill memory, in one or more pieces, and some are left out.
#[derive(Debug, Default)]
pub(super) struct Target<'a> {
    /// None is empty.
    pieces: VecDeque<Piece<'a>>,
    /// Of all pieces.
    len: usize,
}

/// Bytes of the file that follow one another.
#[derive(Debug)]
enum Piece<'a> {
    Fill(&'a mut [u8]),
    /// So many bytes are not wanted.
    Gap(usize),
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Fill(memory) => memory.len(),
            Self::Gap(len) => *len,
        }
    }

    /// Cuts off the first `len` bytes, of more.
    fn split_to(&mut self, len: usize) -> Self {
        match self {
            Self::Fill(memory) => {
                let (front, back) = mem::take(memory).split_at_mut(len);
                *memory = back;
                Self::Fill(front)
            }
            Self::Gap(gap) => {
                *gap -= len;
                Self::Gap(len)
            }
        }
    }
}

impl<'a> FromIterator<&'a mut [u8]> for Target<'a> {
    fn from_iter<I: IntoIterator<Item = &'a mut [u8]>>(pieces: I) -> Self {
        let mut target = Self::default();
        for piece in pieces {
            target.push(Piece::Fill(piece));
        }
        target
    }
}

impl<'a> Target<'a> {
    fn push(&mut self, piece: Piece<'a>) {
        self.len += piece.len();
        if piece.len() > 0 {
            self.pieces.push_back(piece);
        }
    }

    /// The same memory, for a read that leaves out `gaps` between its bytes.
    pub(super) fn spaced(mut self, gaps: &Gaps) -> Self {
        let mut spaced = Self::default();
        let mut rest = gaps.first as usize;
        while let Some(mut piece) = self.pieces.pop_front() {
            if piece.len() > rest {
                spaced.push(piece.split_to(rest));
                self.pieces.push_front(piece);
                rest = 0;
            } else {
                rest -= piece.len();
                spaced.push(piece);
            }
            if rest == 0 && !self.pieces.is_empty() {
                spaced.push(Piece::Gap(gaps.gap as usize));
                rest = gaps.run as usize;
            }
        }
        spaced
    }

    /// Bytes of the file that it still reaches over, gaps as well.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether bytes are still to be left out.
    pub(super) fn has_gaps(&self) -> bool {
        (self.pieces.iter()).any(|piece| matches!(piece, Piece::Gap(_)))
    }

    /// Takes the gap at the start, if there is one, as dealt with; says how long it was.
    pub(super) fn skip_gap(&mut self) -> usize {
        let mut skipped = 0;
        while let Some(Piece::Gap(len)) = self.pieces.front() {
            skipped += *len;
            self.pieces.pop_front();
        }
        self.len -= skipped;
        skipped
    }

    /// The memory that is filled next; none if a gap is next.
    pub(super) fn first(&mut self) -> Option<&mut [u8]> {
        match self.pieces.front_mut()? {
            Piece::Fill(memory) => Some(memory),
            Piece::Gap(_) => None,
        }
    }

    /// The same, if nothing else is to be filled before the next gap.
    pub(super) fn only(&mut self) -> Option<&mut [u8]> {
        match self.pieces.get(1) {
            None | Some(Piece::Gap(_)) => self.first(),
            Some(Piece::Fill(_)) => None,
        }
    }

    /// What is still to be filled, piece by piece.
    pub(super) fn pieces(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.pieces.iter_mut().filter_map(|piece| match piece {
            Piece::Fill(memory) => Some(&mut **memory),
            Piece::Gap(_) => None,
        })
    }

    /// Takes the first `len` bytes as dealt with, or all if there are fewer.
    pub(super) fn advance(&mut self, len: usize) {
        let mut rest = len.min(self.len);
        self.len -= rest;
        while rest > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            if piece.len() > rest {
                piece.split_to(rest);
                break;
            }
            rest -= piece.len();
            self.pieces.pop_front();
        }
    }

    /// Cuts off the first `len` bytes, or all if there are fewer.
    pub(super) fn split_to(&mut self, len: usize) -> Self {
        let mut head = Self::default();
        while head.len < len
            && let Some(mut piece) = self.pieces.pop_front()
        {
            let rest = len - head.len;
            if piece.len() > rest {
                head.push(piece.split_to(rest));
                self.pieces.push_front(piece);
            } else {
                head.push(piece);
            }
        }
        self.len -= head.len;
        head
    }

    /// Takes `bytes` as what the file has here, which is no more than it reaches over: fills what is wanted of them.
    pub(super) fn copy_from(&mut self, mut bytes: &[u8]) {
        for piece in &mut self.pieces {
            let (now, later) = bytes.split_at(piece.len().min(bytes.len()));
            if let Piece::Fill(memory) = piece {
                memory[..now.len()].copy_from_slice(now);
            }
            bytes = later;
            if bytes.is_empty() {
                break;
            }
        }
        debug_assert!(bytes.is_empty(), "more bytes than room");
    }

    /// The memory up to the next gap, as the system wants it.
    pub(super) fn io_slices(&mut self) -> Vec<IoSliceMut<'_>> {
        self.pieces
            .iter_mut()
            .map_while(|piece| match piece {
                Piece::Fill(memory) => Some(IoSliceMut::new(memory)),
                Piece::Gap(_) => None,
            })
            .collect()
    }

    /// The bytes up to the next gap.
    #[cfg(test)]
    pub(super) fn until_gap(&mut self) -> usize {
        self.io_slices().iter().map(|slice| slice.len()).sum()
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

    #[test]
    fn gaps_are_left_out() {
        let mut memory = [0; 7];
        let (front, back) = memory.split_at_mut(4);
        let target: Target<'_> = [front, back].into_iter().collect();
        let gaps = Gaps {
            first: 1,
            run: 3,
            gap: 2,
        };
        // 1, gap, 3, gap, 3
        let mut target = target.spaced(&gaps);
        assert_eq!((target.len(), target.has_gaps()), (11, true));
        assert_eq!(target.only().map(|piece| piece.len()), Some(1));
        target.copy_from(&[1, 9, 9, 2, 3]);
        target.advance(5);
        let mut head = target.split_to(2);
        assert_eq!((head.len(), target.len()), (2, 4));
        assert_eq!(head.skip_gap(), 0);
        head.copy_from(&[4, 9]);
        head.advance(1);
        assert_eq!((head.skip_gap(), head.len()), (1, 0));
        assert!(target.first().is_none(), "a gap is next");
        assert_eq!((target.skip_gap(), target.has_gaps()), (1, false));
        assert_eq!(target.io_slices().len(), 1);
        target.copy_from(&[5, 6, 7]);
        assert_eq!(memory, [1, 2, 3, 4, 5, 6, 7]);
    }
}
