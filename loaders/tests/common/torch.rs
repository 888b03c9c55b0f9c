//! A writer of PyTorch checkpoints, as `torch.save` writes them now and did before 1.6.

use super::pickle::{Py, call, ints, text};
use super::zip::{Packing, TORCH, Zip};

/// A storage: its key, the class of its elements and their size, and its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) key: &'static str,
    pub(crate) class: &'static str,
    pub(crate) element: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Storage {
    /// Elements of 32 bits, whose bytes count up from `first`.
    pub(crate) fn floats(key: &'static str, count: usize, first: u8) -> Self {
        Self::of("FloatStorage", 4, key, count, first)
    }

    pub(crate) fn of(
        class: &'static str,
        element: usize,
        key: &'static str,
        count: usize,
        first: u8,
    ) -> Self {
        Self {
            key,
            class,
            element,
            bytes: (0..count * element)
                .map(|at| (at as u8).wrapping_add(first))
                .collect(),
        }
    }

    pub(crate) fn id(&self) -> Py {
        let module = match self.class {
            "UntypedStorage" => "torch.storage",
            _ => "torch",
        };
        Py::Persistent(Box::new(Py::Tuple(vec![
            text("storage"),
            Py::Global(module, self.class),
            text(self.key),
            text("cpu"),
            Py::Int((self.bytes.len() / self.element) as i64),
        ])))
    }

    /// The tensor that views the storage so.
    pub(crate) fn view(&self, offset: i64, shape: &[i64], strides: &[i64]) -> Py {
        self.rebuilt("_rebuild_tensor_v2", offset, shape, strides, vec![])
    }

    /// What one of torch's functions makes of the storage, with more arguments than a tensor needs.
    pub(crate) fn rebuilt(
        &self,
        function: &'static str,
        offset: i64,
        shape: &[i64],
        strides: &[i64],
        more: Vec<Py>,
    ) -> Py {
        let mut arguments = vec![self.id(), Py::Int(offset), ints(shape), ints(strides)];
        if function != "_rebuild_tensor" {
            arguments.push(Py::Bool(false));
            arguments.push(call("collections", "OrderedDict", vec![]));
        }
        arguments.extend(more);
        call("torch._utils", function, arguments)
    }

    /// All of it, in one dimension.
    pub(crate) fn whole(&self) -> Py {
        self.view(0, &[(self.bytes.len() / self.element) as i64], &[1])
    }
}

/// What `torch.save` is given.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) object: Py,
    pub(crate) storages: Vec<Storage>,
}

impl Saved {
    /// The archive that torch writes.
    pub(crate) fn archive(&self) -> Vec<u8> {
        self.archive_packed(TORCH, Some("little"))
    }

    pub(crate) fn archive_packed(&self, packing: Packing, byte_order: Option<&str>) -> Vec<u8> {
        let mut zip = Zip::default();
        zip.member("model/data.pkl", &self.object.pickle(), packing);
        zip.member("model/.format_version", b"1", packing);
        if let Some(byte_order) = byte_order {
            zip.member("model/byteorder", byte_order.as_bytes(), packing);
        }
        for storage in &self.storages {
            let name = format!("model/data/{}", storage.key);
            zip.member(&name, &storage.bytes, packing);
        }
        zip.member("model/version", b"3\n", packing);
        zip.member("model/.data/serialization_id", &[b'7'; 40], packing);
        zip.finish()
    }

    /// The file that torch wrote before 1.6.
    pub(crate) fn legacy(&self) -> Vec<u8> {
        let keys = self.storages.iter().map(|storage| text(storage.key));
        let mut bytes = Self::legacy_pickles(&self.object, Py::List(keys.collect()));
        for storage in &self.storages {
            let count = (storage.bytes.len() / storage.element) as u64;
            bytes.extend(count.to_le_bytes());
            bytes.extend(&storage.bytes);
        }
        bytes
    }

    /// The pickles before the storages.
    pub(crate) fn legacy_pickles(object: &Py, keys: Py) -> Vec<u8> {
        let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
        bytes.extend(Py::Int(1001).pickle());
        let facts = vec![
            (text("protocol_version"), Py::Int(1001)),
            (text("little_endian"), Py::Bool(true)),
        ];
        bytes.extend(Py::Dict(facts).pickle());
        bytes.extend(object.pickle());
        bytes.extend(keys.pickle());
        bytes
    }
}
