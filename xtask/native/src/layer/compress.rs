//! Compresses a stream in parallel blocks. The result does not depend on the number of threads.
//!
//! Memory is limited to a few blocks, whatever the length of the stream. In gzip, a deflated file of an archive is a member of
//! its own (RFC 1952 allows any number): its bytes are those of the archive, and are unpacked only to be checked and hashed.

use super::item::Packed;
use super::packed::Archives;
use super::{Codec, note};
use flate2::{Compress, Crc, FlushCompress, Status};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;
use xtask_model::fault::Fault;
use xtask_model::image::policy::Compression;
use xtask_model::spec::oci::Descriptor;
use xtask_model::spec::reference::Digest;

#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub diff_id: Digest,
    /// Media type, digest and size of what was written.
    pub descriptor: Descriptor,
    /// Size of the tar file in bytes.
    pub bytes: u64,
    /// Bytes of the note at the end of the layer, with their framing.
    pub note: u64,
}

/// Size of a block before compression, in bytes.
pub(super) const BLOCK: usize = 1 << 20;

const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Files of an archive with fewer packed bytes are compressed with what is around them: a member costs about as much.
const SMALL: u64 = 512;
/// Longer files of an archive are read in pieces: what waits for its turn is held in memory.
const WHOLE: u64 = 256 << 10;

/// Bytes that are hashed and written at once, at least: a member of a small file has four parts.
const HELD: usize = 64 << 10;

/// Empty final block; the blocks before it are not final.
const GZIP_END: [u8; 2] = [3, 0];

/// Compresses the output of `produce` with this many additional threads; one block or one thread needs none. Then comes the note.
pub(super) fn stream<W: Write>(
    codec: Codec,
    (threads, note): (usize, Option<&[u8]>),
    sink: W,
    produce: impl FnOnce(&mut Blocks<'_, '_, W>) -> Result<(), Fault>,
) -> Result<Written, Fault> {
    // Must outlive the scope: the threads take jobs from it.
    let queue = Mutex::new(None);
    std::thread::scope(|scope| {
        let mut blocks = Blocks {
            codec,
            threads,
            scope,
            queue: &queue,
            jobs: None,
            own: None,
            block: Vec::with_capacity(BLOCK),
            begun: false,
            spare: Vec::new(),
            running: VecDeque::new(),
            plain: Sha256::new(),
            bytes: 0,
            member: Member::default(),
            out: Out { sink, state: Sha256::new(), size: 0, held: Vec::with_capacity(HELD) },
        };
        produce(&mut blocks)?;
        blocks.end(note)
    })
}

/// Queue that the threads share. Waiting for the lock is cheap compared with compression.
type Queue = Mutex<Option<Receiver<BlockJob>>>;

/// A block, and where it goes when it is compressed.
type BlockJob = (Block, SyncSender<Block>);

#[derive(Default)]
struct Block {
    plain: Vec<u8>,
    packed: Vec<u8>,
    crc: Crc,
    kind: BlockKind,
    failed: Option<Fault>,
}

#[derive(Default)]
enum BlockKind {
    #[default]
    Part,
    /// The last one of a gzip member.
    Last,
    /// A file of an archive, which is a gzip member.
    Packed(Packed),
}

/// The open gzip member.
#[derive(Default)]
struct Member {
    open: bool,
    crc: Crc,
    bytes: u64,
}

pub(super) struct Blocks<'scope, 'env, W> {
    codec: Codec,
    threads: usize,
    scope: &'scope Scope<'scope, 'env>,
    queue: &'env Queue,
    jobs: Option<SyncSender<BlockJob>>,
    own: Option<CompressWorker>,
    block: Vec<u8>,
    /// True if a block of the current gzip member was sent.
    begun: bool,
    spare: Vec<Block>,
    running: VecDeque<Receiver<Block>>,
    plain: Sha256,
    bytes: u64,
    member: Member,
    out: Out<W>,
}

impl<W: Write> Blocks<'_, '_, W> {
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let room = (BLOCK - self.block.len()).min(bytes.len());
            self.block.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            self.turn_over()?;
        }
        Ok(())
    }

    /// Takes up to `most` bytes that `read` appends to a buffer, which has room for as many as it is given, and returns their number.
    pub(super) fn fill(
        &mut self,
        most: u64,
        read: impl FnOnce(&mut Vec<u8>, u64) -> Result<usize, Fault>,
    ) -> Result<usize, Fault> {
        let room = BLOCK - self.block.len();
        self.block.reserve_exact(room);
        let count = read(&mut self.block, most.min(room as u64))?;
        self.turn_over()?;
        Ok(count)
    }

    /// Takes a file of an archive.
    pub(super) fn packed(&mut self, file: &Packed) -> Result<(), Fault> {
        if self.codec.0 != Compression::Gzip || !file.deflated || file.packed < SMALL {
            let mut own = self.own.take().unwrap_or_else(|| CompressWorker::new(self.codec));
            own.archives.read(file, &mut |_| Ok(()), &mut |bytes| self.push(bytes))?;
            self.own = Some(own);
            return Ok(());
        }
        if self.begun || !self.block.is_empty() {
            self.send(true)?;
        }
        if self.threads > 1 && file.size <= WHOLE && file.packed <= WHOLE {
            let block = Block { kind: BlockKind::Packed(file.clone()), ..self.spare.pop().unwrap_or_default() };
            return self.dispatch(block, false);
        }
        while !self.running.is_empty() {
            self.take_one()?;
        }
        let own = self.own.get_or_insert_with(|| CompressWorker::new(self.codec));
        let (out, hash) = (&mut self.out, &mut self.plain);
        out.put(&GZIP_HEADER)?;
        own.archives.read(file, &mut |raw| out.put(raw), &mut |plain| {
            hash.update(plain);
            Ok(())
        })?;
        self.bytes += file.size;
        self.out.end_member(file.crc, file.size)
    }

    fn turn_over(&mut self) -> Result<(), Fault> {
        if self.block.len() < BLOCK { Ok(()) } else { self.send(false) }
    }

    fn send(&mut self, last: bool) -> Result<(), Fault> {
        let mut block = self.spare.pop().unwrap_or_default();
        block.plain.clear();
        std::mem::swap(&mut block.plain, &mut self.block);
        block.kind = if last { BlockKind::Last } else { BlockKind::Part };
        self.begun = !last;
        self.dispatch(block, last)
    }

    fn dispatch(&mut self, mut block: Block, last: bool) -> Result<(), Fault> {
        if self.threads < 2 || (last && self.jobs.is_none()) {
            self.own.get_or_insert_with(|| CompressWorker::new(self.codec)).work(&mut block);
            return self.take(block);
        }
        let (done, receiver) = sync_channel(1);
        self.workers().send((block, done)).expect("the threads outlive the queue");
        self.running.push_back(receiver);
        while self.running.len() > 2 * self.threads {
            self.take_one()?;
        }
        Ok(())
    }

    fn workers(&mut self) -> &SyncSender<BlockJob> {
        let (scope, queue, codec) = (self.scope, self.queue, self.codec);
        self.jobs.get_or_insert_with(|| {
            let (jobs, receiver) = sync_channel(2 * self.threads);
            *queue.lock().expect("a new lock is not poisoned") = Some(receiver);
            for _ in 0..self.threads {
                scope.spawn(move || work(queue, CompressWorker::new(codec)));
            }
            jobs
        })
    }

    fn take_one(&mut self) -> Result<(), Fault> {
        let Some(next) = self.running.pop_front() else { return Ok(()) };
        self.take(next.recv().expect("every job gets an answer"))
    }

    fn take(&mut self, mut block: Block) -> Result<(), Fault> {
        if let Some(fault) = block.failed.take() {
            return Err(fault);
        }
        self.plain.update(&block.plain);
        self.bytes += block.plain.len() as u64;
        if let BlockKind::Packed(file) = &block.kind {
            self.out.put(&GZIP_HEADER)?;
            self.out.put(&block.packed)?;
            self.out.end_member(file.crc, file.size)?;
        } else {
            let gzip = self.codec.0 == Compression::Gzip;
            if gzip && !self.member.open {
                self.out.put(&GZIP_HEADER)?;
                self.member = Member { open: true, ..Member::default() };
            }
            self.member.crc.combine(&block.crc);
            self.member.bytes += block.plain.len() as u64;
            self.out.put(&block.packed)?;
            if gzip && matches!(block.kind, BlockKind::Last) {
                self.out.put(&GZIP_END)?;
                self.out.end_member(self.member.crc.sum(), self.member.bytes)?;
                self.member.open = false;
            }
        }
        self.spare.push(block);
        Ok(())
    }

    fn end(mut self, note: Option<&[u8]>) -> Result<Written, Fault> {
        let empty = self.bytes == 0 && self.running.is_empty();
        if self.begun || !self.block.is_empty() || empty {
            self.send(true)?;
        }
        // Ends the threads.
        self.jobs = None;
        while !self.running.is_empty() {
            self.take_one()?;
        }
        let note = note.map(|note| note::framed(self.codec, note)).unwrap_or_default();
        self.out.put(&note)?;
        self.out.flush()?;
        let digest = Digest::from_bytes(self.out.state.finalize().into());
        Ok(Written {
            diff_id: Digest::from_bytes(self.plain.finalize().into()),
            descriptor: Descriptor::new(self.codec.media_type(), digest, self.out.size),
            bytes: self.bytes,
            note: note.len() as u64,
        })
    }
}

fn work(queue: &Queue, mut worker: CompressWorker) {
    loop {
        let job = match queue.lock() {
            Ok(queue) => queue.as_ref().and_then(|jobs| jobs.recv().ok()),
            Err(_) => None,
        };
        let Some((mut block, done)) = job else { return };
        worker.work(&mut block);
        // The receiver is gone if the stream failed.
        let _ = done.send(block);
    }
}

struct CompressWorker {
    encoder: Encoder,
    archives: Archives,
}

impl CompressWorker {
    fn new(codec: Codec) -> Self {
        Self { encoder: Encoder::new(codec), archives: Archives::default() }
    }

    fn work(&mut self, block: &mut Block) {
        let BlockKind::Packed(file) = &block.kind else { return self.encoder.compress(block) };
        let (plain, packed) = (&mut block.plain, &mut block.packed);
        plain.clear();
        packed.clear();
        let keep = |to: &mut Vec<u8>, bytes: &[u8]| {
            to.extend_from_slice(bytes);
            Ok(())
        };
        let read = self.archives.read(file, &mut |bytes| keep(packed, bytes), &mut |bytes| keep(plain, bytes));
        block.failed = read.err();
    }
}

enum Encoder {
    Gzip(Compress),
    Zstd,
}

impl Encoder {
    fn new(codec: Codec) -> Self {
        match codec.0 {
            Compression::Gzip => Self::Gzip(Compress::new(flate2::Compression::new(super::LEVEL), false)),
            Compression::Zstd => Self::Zstd,
        }
    }

    /// Compresses a block independently of the others. The checksum is gzip's.
    fn compress(&mut self, Block { plain, packed, crc, .. }: &mut Block) {
        crc.reset();
        packed.clear();
        if plain.is_empty() {
            return;
        }
        match self {
            Self::Gzip(deflate) => {
                crc.update(plain);
                deflate.reset();
                deflated(deflate, plain, packed);
            }
            Self::Zstd => *packed = compress_to_vec(&**plain, CompressionLevel::Fastest),
        }
    }
}

/// Deflates to a byte boundary, so that the next block can be appended.
fn deflated(deflate: &mut Compress, plain: &[u8], packed: &mut Vec<u8>) {
    // More than needed: a full buffer would change the output.
    packed.reserve(plain.len() + plain.len() / 4 + 1024);
    loop {
        let taken = usize::try_from(deflate.total_in()).expect("a block fits into memory");
        let status = deflate.compress_vec(&plain[taken..], packed, FlushCompress::Sync);
        match status.expect("any input can be deflated") {
            // A buffer with space left means that all input is compressed.
            Status::Ok | Status::BufError if packed.len() == packed.capacity() => {
                packed.reserve(plain.len() / 4 + 1024)
            }
            Status::Ok | Status::BufError | Status::StreamEnd => return,
        }
    }
}

struct Out<W> {
    sink: W,
    state: Sha256,
    size: u64,
    held: Vec<u8>,
}

impl<W: Write> Out<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.size += bytes.len() as u64;
        if self.held.len() + bytes.len() > HELD {
            self.let_go()?;
        }
        if bytes.len() < HELD {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        self.state.update(bytes);
        self.sink.write_all(bytes).map_err(cannot_write)
    }

    /// Hashes and writes what is held.
    fn let_go(&mut self) -> Result<(), Fault> {
        self.state.update(&self.held);
        let written = self.sink.write_all(&self.held).map_err(cannot_write);
        self.held.clear();
        written
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.let_go()?;
        self.sink.flush().map_err(cannot_write)
    }

    fn end_member(&mut self, crc: u32, bytes: u64) -> Result<(), Fault> {
        self.put(&crc.to_le_bytes())?;
        self.put(&(bytes as u32).to_le_bytes())
    }
}

fn cannot_write(error: io::Error) -> Fault {
    Fault::build("cannot write a layer").cause(error)
}
