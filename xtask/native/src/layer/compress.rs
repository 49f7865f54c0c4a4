//! Compresses a stream in parallel blocks. The result does not depend on the number of threads.
//!
//! Memory is limited to a few blocks, whatever the length of the stream.

use super::{Codec, Written};
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

/// Size of a block before compression, in bytes.
pub(super) const BLOCK: usize = 1 << 20;

const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Empty final block; the blocks before it are not final.
const GZIP_END: [u8; 2] = [3, 0];

/// Compresses the output of `produce` with this many additional threads; one block or one thread needs none.
pub(super) fn stream<W: Write>(
    codec: Codec,
    threads: usize,
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
            spare: Vec::new(),
            running: VecDeque::new(),
            plain: Sha256::new(),
            bytes: 0,
            crc: Crc::new(),
            out: Out { sink, state: Sha256::new(), size: 0 },
        };
        blocks.begin()?;
        produce(&mut blocks)?;
        blocks.end()
    })
}

/// Queue that the threads share. Waiting for the lock is cheap compared with compression.
type Queue = Mutex<Option<Receiver<Job>>>;

/// A block, and where it goes when it is compressed.
type Job = (Block, SyncSender<Block>);

#[derive(Default)]
struct Block {
    plain: Vec<u8>,
    packed: Vec<u8>,
    crc: Crc,
}

pub(super) struct Blocks<'scope, 'env, W> {
    codec: Codec,
    threads: usize,
    scope: &'scope Scope<'scope, 'env>,
    queue: &'env Queue,
    jobs: Option<SyncSender<Job>>,
    own: Option<Encoder>,
    block: Vec<u8>,
    spare: Vec<Block>,
    running: VecDeque<Receiver<Block>>,
    plain: Sha256,
    bytes: u64,
    crc: Crc,
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

    /// Takes up to `most` bytes that `read` writes to a buffer, and returns their number.
    pub(super) fn fill(
        &mut self,
        most: u64,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Fault>,
    ) -> Result<usize, Fault> {
        let filled = self.block.len();
        let room = (BLOCK - filled).min(usize::try_from(most).unwrap_or(BLOCK));
        self.block.resize(filled + room, 0);
        let count = read(&mut self.block[filled..])?;
        self.block.truncate(filled + count);
        self.turn_over()?;
        Ok(count)
    }

    fn begin(&mut self) -> Result<(), Fault> {
        if self.codec.0 == Compression::Gzip {
            self.out.put(&GZIP_HEADER)?;
        }
        Ok(())
    }

    fn turn_over(&mut self) -> Result<(), Fault> {
        if self.block.len() < BLOCK { Ok(()) } else { self.send(false) }
    }

    fn send(&mut self, last: bool) -> Result<(), Fault> {
        self.plain.update(&self.block);
        self.bytes += self.block.len() as u64;
        let mut block = self.spare.pop().unwrap_or_default();
        block.plain.clear();
        std::mem::swap(&mut block.plain, &mut self.block);
        if self.threads < 2 || (last && self.jobs.is_none()) {
            let own = self.own.get_or_insert_with(|| Encoder::new(self.codec));
            own.compress(&mut block);
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

    fn workers(&mut self) -> &SyncSender<Job> {
        let (scope, queue, codec) = (self.scope, self.queue, self.codec);
        self.jobs.get_or_insert_with(|| {
            let (jobs, receiver) = sync_channel(2 * self.threads);
            *queue.lock().expect("a new lock is not poisoned") = Some(receiver);
            for _ in 0..self.threads {
                scope.spawn(move || work(queue, Encoder::new(codec)));
            }
            jobs
        })
    }

    fn take_one(&mut self) -> Result<(), Fault> {
        let Some(next) = self.running.pop_front() else { return Ok(()) };
        self.take(next.recv().expect("every job gets an answer"))
    }

    fn take(&mut self, block: Block) -> Result<(), Fault> {
        self.crc.combine(&block.crc);
        self.out.put(&block.packed)?;
        self.spare.push(block);
        Ok(())
    }

    fn end(mut self) -> Result<Written, Fault> {
        if !self.block.is_empty() {
            self.send(true)?;
        }
        // Ends the threads.
        self.jobs = None;
        while !self.running.is_empty() {
            self.take_one()?;
        }
        if self.codec.0 == Compression::Gzip {
            self.out.put(&GZIP_END)?;
            self.out.put(&self.crc.sum().to_le_bytes())?;
            self.out.put(&(self.bytes as u32).to_le_bytes())?;
        }
        self.out.sink.flush().map_err(cannot_write)?;
        let digest = Digest::from_bytes(self.out.state.finalize().into());
        Ok(Written {
            diff_id: Digest::from_bytes(self.plain.finalize().into()),
            descriptor: Descriptor::new(self.codec.media_type(), digest, self.out.size),
            bytes: self.bytes,
        })
    }
}

fn work(queue: &Queue, mut encoder: Encoder) {
    loop {
        let job = match queue.lock() {
            Ok(queue) => queue.as_ref().and_then(|jobs| jobs.recv().ok()),
            Err(_) => None,
        };
        let Some((mut block, done)) = job else { return };
        encoder.compress(&mut block);
        // The receiver is gone if the stream failed.
        let _ = done.send(block);
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
    fn compress(&mut self, Block { plain, packed, crc }: &mut Block) {
        crc.reset();
        match self {
            Self::Gzip(deflate) => {
                crc.update(plain);
                deflate.reset();
                packed.clear();
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
}

impl<W: Write> Out<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.state.update(bytes);
        self.size += bytes.len() as u64;
        self.sink.write_all(bytes).map_err(cannot_write)
    }
}

fn cannot_write(error: io::Error) -> Fault {
    Fault::build("cannot write a layer").cause(error)
}
