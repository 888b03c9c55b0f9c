//! What must hold of every plan: each byte of each tensor comes once, from where the file has it, to where the tensor lies.

use ckload_loaders::{Arrangement, Checkpoint, Plan, Read, TensorInfo};

/// Bytes of a slot that are filled from the bytes of a file from `at` on; of what is gathered nothing says from where.
#[derive(Debug)]
struct Stretch {
    slot: usize,
    start: u64,
    len: u64,
    from: Option<(usize, u64)>,
}

/// Checks the plan of `checkpoint`. `source` tells for a byte of a tensor that is not gathered where its file has it, and
/// how many bytes follow there.
pub(crate) fn check_places(
    checkpoint: &Checkpoint,
    plan: &Plan,
    source: impl Fn(&TensorInfo, u64) -> (u64, u64),
) {
    let infos = checkpoint.tensors();
    let placed = plan.places().iter().map(|place| place.tensor);
    let with_bytes = (0..infos.len()).filter(|&number| infos[number].bytes > 0);
    assert!(placed.eq(with_bytes), "not one place for each: {plan:?}");

    let mut stretches = stretches(plan).into_iter();
    let mut rest: Option<Stretch> = None;
    let mut places: Vec<_> = plan.places().iter().collect();
    places.sort_unstable_by_key(|place| (place.slot, place.offset));
    for place in places {
        let info = &infos[place.tensor];
        assert!(place.offset.is_multiple_of(info.dtype.alignment()));
        assert!(place.offset + info.bytes <= plan.slots()[place.slot]);
        let mut done = 0;
        while done < info.bytes {
            let mut stretch = (rest.take().or_else(|| stretches.next()))
                .unwrap_or_else(|| panic!("nothing fills {place:?} from its byte {done} on"));
            let expected = (place.slot, place.offset + done);
            assert_eq!((stretch.slot, stretch.start), expected, "{place:?}");
            // Neighbours may be filled by one part of a read.
            let mut len = stretch.len.min(info.bytes - done);
            if let Some((file, at)) = stretch.from {
                let (expected, following) = source(info, done);
                assert_eq!((file, at), (info.file, expected), "{place:?}, byte {done}");
                len = len.min(following);
                stretch.from = Some((file, at + len));
            } else {
                assert_ne!(info.arrangement(), Arrangement::InPlace, "{place:?}");
            }
            done += len;
            stretch.start += len;
            stretch.len -= len;
            rest = (stretch.len > 0).then_some(stretch);
        }
    }
    assert!(rest.is_none() && stretches.next().is_none(), "{plan:?}");
}

/// Where the bytes of a whole tensor are that lies in place.
pub(crate) fn in_place(info: &TensorInfo, at: u64) -> (u64, u64) {
    (info.offset + at, info.bytes - at)
}

/// All that is filled, in the order of the slots.
fn stretches(plan: &Plan) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = plan.reads().iter().flat_map(of_read).collect();
    stretches.extend(plan.gathers().iter().map(|gather| Stretch {
        slot: gather.slot,
        start: gather.offset,
        len: gather.len,
        from: None,
    }));
    stretches.sort_unstable_by_key(|stretch| (stretch.slot, stretch.start));
    stretches
}

/// What one read fills: a stretch for each run of each part.
fn of_read(read: &Read) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut at = read.offset;
    let mut until_gap = read.gaps.map_or(u64::MAX, |gaps| gaps.first);
    for part in &read.parts {
        let mut done = 0;
        while done < part.len {
            if until_gap == 0 {
                let gaps = read.gaps.expect("a read without gaps has none to come to");
                at += gaps.gap;
                until_gap = gaps.run;
            }
            let len = until_gap.min(part.len - done);
            stretches.push(Stretch {
                slot: part.slot,
                start: part.offset + done,
                len,
                from: Some((read.file, at)),
            });
            at += len;
            done += len;
            until_gap -= len;
        }
    }
    assert_eq!(at, read.offset + read.span(), "{read:?}");
    let bytes: u64 = read.parts.iter().map(|part| part.len).sum();
    assert_eq!(bytes, read.len, "{read:?}");
    stretches
}
