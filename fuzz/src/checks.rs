//! What must hold of whatever opens, and of every error.

use std::collections::HashSet;
use std::sync::LazyLock;

use ckload_loaders::{
    Arrangement, ByteSize, Checkpoint, Digest, Error, Io, Loader, Model, TensorInfo, VerifyOptions,
};

use crate::places::{check_places, in_place};
use crate::slices::check_slices;

/// Larger checkpoints are planned, but not loaded: a view may repeat its storage a million times.
const MOST_LOADED_BYTES: u64 = 1 << 20;

/// Clones share its pool and its threads.
pub(crate) static LOADER: LazyLock<Loader> = LazyLock::new(|| Loader::new().threads(2));

/// Checks what a file with this content opened as: its tensors, their plan, and every way of loading them.
/// Tells what was loaded, if anything was.
pub(crate) fn check_checkpoint(checkpoint: &Checkpoint, content: &[u8]) -> Option<Model> {
    let mut names = HashSet::new();
    for info in checkpoint.tensors() {
        assert!(names.insert(&info.name), "{:?} is there twice", info.name);
        check_info(info, content.len() as u64);
    }
    assert!(checkpoint.tensors().is_sorted_by_key(|info| info.offset));
    let bytes: u128 = checkpoint
        .tensors()
        .iter()
        .map(|info| u128::from(info.bytes))
        .sum();
    if bytes > u128::from(MOST_LOADED_BYTES) {
        return None;
    }
    check_places(checkpoint, &LOADER.plan(checkpoint), in_place);
    let io = [Io::Auto, Io::Buffered, Io::Direct, Io::Mmap][content.len() % 4];
    let loader = LOADER.clone().io(io);
    let model = check_loads(checkpoint, &loader, content);
    let (dim, world_size) = (content.len() / 4 % 3, 2 + content.len() / 12 % 2);
    check_slices(checkpoint, &loader, model.as_ref(), dim, world_size);
    model
}

fn check_info(info: &TensorInfo, file_bytes: u64) {
    let block = info.dtype.block();
    let elements: u128 = info.shape.iter().map(|&dim| u128::from(dim)).product();
    assert_eq!(
        u128::from(info.bytes) * u128::from(block.elements),
        elements * u128::from(block.bytes),
        "{info:?}"
    );
    assert_eq!(info.file, 0);
    let taken = match info.arrangement() {
        Arrangement::InPlace => info.bytes,
        _ => 0,
    };
    let end = info.offset.checked_add(taken);
    assert!(end.is_some_and(|end| end <= file_bytes), "{info:?}");
}

/// Every way of loading brings the same bytes, and of tensors in place those of the file. Tells what came.
pub(crate) fn check_loads(
    checkpoint: &Checkpoint,
    loader: &Loader,
    content: &[u8],
) -> Option<Model> {
    let model = match loader.load(checkpoint) {
        Ok(model) => model,
        Err(error) => {
            check_load_error(checkpoint, &error);
            return None;
        }
    };
    for tensor in model.tensors() {
        let (info, bytes) = (tensor.info(), tensor.bytes());
        let start = info.offset as usize;
        if info.arrangement() == Arrangement::InPlace {
            assert_eq!(bytes[..], content[start..][..bytes.len()], "{info:?}");
        }
        let address = bytes.as_ptr().addr() as u64;
        let alignment = info.dtype.alignment();
        assert!(bytes.is_empty() || address.is_multiple_of(alignment));
    }

    check_streams(checkpoint, loader, &model);
    let options = VerifyOptions::default().finite(true);
    let verified = loader
        .verify(checkpoint, &options)
        .expect("it loaded before");
    assert_eq!(verified.files()[0].sha256, Digest::of(content));
    for (tensor, digest) in model.tensors().iter().zip(verified.tensors()) {
        assert_eq!(digest.sha256, Digest::of(tensor.bytes()), "{tensor:?}");
    }
    Some(model)
}

/// Streams and chunks bring what a resident load brought.
pub(crate) fn check_streams(checkpoint: &Checkpoint, loader: &Loader, model: &Model) {
    let mut streamed = 0;
    for tensor in loader.stream(checkpoint).expect("it loaded before") {
        let tensor = tensor.expect("it loaded before");
        let resident = model.tensor(tensor.name()).expect("it loaded before");
        assert_eq!(tensor.bytes(), resident.bytes(), "{tensor:?}");
        streamed += 1;
    }
    assert_eq!(streamed, model.tensors().len());

    let loader = loader.clone().chunk_size(ByteSize::kib(4));
    let mut chunked = 0;
    for chunk in loader.chunks(checkpoint).expect("it loaded before") {
        let chunk = chunk.expect("it loaded before");
        let resident = model
            .tensor(&chunk.tensor().name)
            .expect("it loaded before");
        let start = chunk.offset() as usize;
        let bytes = chunk.bytes();
        assert_eq!(
            bytes[..],
            resident.bytes()[start..][..bytes.len()],
            "{chunk:?}"
        );
        chunked += bytes.len() as u64;
    }
    assert_eq!(chunked, checkpoint.bytes());
}

/// Of what opened only compressed tensors may turn out to be broken.
fn check_load_error(checkpoint: &Checkpoint, error: &Error) {
    let is_compressed = |info: &TensorInfo| info.arrangement() == Arrangement::Compressed;
    assert!(checkpoint.tensors().iter().any(is_compressed), "{error}");
    check_error(error);
}

/// An error says what is wrong, whatever is in the file.
pub(crate) fn check_error(error: &Error) {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| {
        cause.source()
    });
    assert!(causes.all(|cause| !cause.to_string().is_empty()));
    assert!(!error.kind().is_empty());
}
