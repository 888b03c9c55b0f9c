//! Positioned reads through the page cache.

use std::fs::File;
use std::io::{self, IoSliceMut};

use rustix::io::{Errno, preadv};

use super::{Failed, Reader};
use crate::observer::Source;

pub(super) struct Buffered;

impl Reader for Buffered {
    fn read_exact_at(
        &self,
        file: &File,
        offset: u64,
        mut buffers: &mut [IoSliceMut<'_>],
    ) -> Result<(), Failed> {
        let mut done = 0;
        while buffers.iter().any(|buffer| !buffer.is_empty()) {
            match preadv(file, buffers, offset + done) {
                Ok(0) => return Err(Failed::ended_early(done)),
                Ok(bytes) => {
                    done += bytes as u64;
                    IoSliceMut::advance_slices(&mut buffers, bytes);
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Failed {
                        done,
                        source: io::Error::from(errno),
                    });
                }
            }
        }
        Ok(())
    }

    fn source(&self) -> Source {
        Source::Buffered
    }
}
