//! A registry that misbehaves on request: an HTTP/1.1 server on loopback in front of a real registry, or alone.
//!
//! Rules are applied in their order, each to the requests it matches and as often as it says; what no rule takes is
//! passed on unchanged (with a registry behind it) or answered with 404 (alone). Every request is kept for the test to
//! look at. It speaks only to loopback, and ends with its value.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// No connection lasts longer without a byte.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// A request as it came in; of its body only the length is kept, and the first 64 KiB.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub length: u64,
}

impl Request {
    /// A header, by its lowercase name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// An answer that no registry gave. `Content-Length` is added unless it is present.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// Answer of a rule, as a function of the request.
pub type Reply = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// Fault that a rule causes.
#[derive(Clone)]
pub enum Mishap {
    /// Closes the connection without an answer, before the body is read.
    Hangup,
    /// Answers by itself, after reading the request.
    Answer(Answer),
    /// Answers as the function says.
    Reply(Reply),
    /// Passes everything on, later.
    Delay(Duration),
    /// Passes everything on once this is true.
    Hold(Arc<AtomicBool>),
    /// Passes this many bytes of the request's body on, then cuts both connections.
    CutRequest(u64),
    /// Passes the request on and this many bytes of the answer's body back, then cuts.
    CutAnswer(u64),
    /// Passes the request on whole and hangs up instead of answering.
    LoseAnswer,
    /// Passes the answer on with this header instead of the registry's.
    Header(String, String),
    /// Passes the answer on with its body's first byte changed.
    Garble,
}

type Condition = Arc<dyn Fn(&Request) -> bool + Send + Sync>;

struct Rule {
    method: String,
    part: String,
    condition: Option<Condition>,
    skip: usize,
    times: usize,
    mishap: Mishap,
}

#[derive(Default)]
struct Script {
    rules: Mutex<Vec<Rule>>,
    waiting: Mutex<Vec<Request>>,
    seen: Mutex<Vec<Request>>,
    stop: AtomicBool,
}

/// The server; dropping it ends it.
pub struct FaultProxy {
    address: SocketAddr,
    script: Arc<Script>,
}

impl FaultProxy {
    /// Before the registry at `upstream`.
    pub fn before(upstream: SocketAddr) -> Self {
        Self::start(Some(upstream))
    }

    /// With nothing behind it: every answer is a rule's.
    pub fn alone() -> Self {
        Self::start(None)
    }

    fn start(upstream: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let script = Arc::new(Script::default());
        let shared = Arc::clone(&script);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(client), shared) = (client, Arc::clone(&shared)) else { continue };
                // A connection that breaks is what this is for.
                std::thread::spawn(move || drop(serve(client, upstream, &shared)));
            }
        });
        Self { address, script }
    }

    /// `127.0.0.1:PORT`, as a registry is written.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Lets `mishap` happen to the next `times` requests of this method (`*` is any) whose target contains `part`.
    pub fn on(&self, method: &str, part: &str, times: usize, mishap: Mishap) -> &Self {
        self.on_after(0, method, part, times, mishap)
    }

    /// As [`FaultProxy::on`], after this number of matching requests.
    pub fn on_after(&self, skip: usize, method: &str, part: &str, times: usize, mishap: Mishap) -> &Self {
        let rule = Rule { method: method.to_owned(), part: part.to_owned(), condition: None, skip, times, mishap };
        self.script.rules.lock().unwrap().push(rule);
        self
    }

    /// Lets `mishap` happen to every matching request whose head fulfils a condition.
    pub fn on_where(
        &self,
        method: &str,
        part: &str,
        condition: impl Fn(&Request) -> bool + Send + Sync + 'static,
        mishap: Mishap,
    ) -> &Self {
        self.on(method, part, usize::MAX, mishap);
        if let Some(rule) = self.script.rules.lock().unwrap().last_mut() {
            rule.condition = Some(Arc::new(condition));
        }
        self
    }

    /// Forgets every rule: from here on all is passed on.
    pub fn clear(&self) {
        self.script.rules.lock().unwrap().clear();
    }

    /// Answers every request of this method whose target contains `part`.
    pub fn reply(
        &self,
        method: &str,
        part: &str,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> &Self {
        self.on(method, part, usize::MAX, Mishap::Reply(Arc::new(answer)))
    }

    /// The requests so far, in the order in which they came.
    pub fn seen(&self) -> Vec<Request> {
        self.script.seen.lock().unwrap().clone()
    }

    /// The requests that were ever made to wait.
    pub fn waiting(&self) -> Vec<Request> {
        self.script.waiting.lock().unwrap().clone()
    }

    /// Number of requests of this method with `part` in their target.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.target.contains(part)).count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.script.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
    }
}

impl Script {
    fn next(&self, request: &Request) -> Option<Mishap> {
        for rule in self.rules.lock().unwrap().iter_mut() {
            let fits = (rule.method == "*" || rule.method == request.method)
                && request.target.contains(&rule.part)
                && rule.condition.as_ref().is_none_or(|condition| condition(request));
            if !fits || rule.times == 0 {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            return Some(rule.mishap.clone());
        }
        None
    }

    fn remember(&self, request: &Request) {
        self.seen.lock().unwrap().push(request.clone());
    }
}

fn serve(client: TcpStream, upstream: Option<SocketAddr>, script: &Script) -> io::Result<()> {
    client.set_read_timeout(Some(READ_LIMIT))?;
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    // Docker tries TLS first, and plain HTTP where the answer to its greeting is HTTP's: so says a plain registry.
    if reader.fill_buf()?.first() == Some(&0x16) {
        (&client).write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")?;
        client.shutdown(Shutdown::Both)?;
        return Ok(());
    }
    while let Some(mut request) = read_head(&mut reader)? {
        let mishap = script.next(&request);
        if let Some(Mishap::Hangup) = mishap {
            script.remember(&request);
            break;
        }
        if request.header("expect").is_some() {
            (&client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if let (Some(Mishap::CutRequest(bytes)), None) = (&mishap, upstream) {
            let cut = pass_body(&mut reader, &mut request, &mut io::sink(), *bytes);
            script.remember(&request);
            cut?;
            break;
        }
        let own: Option<Reply> = match &mishap {
            Some(Mishap::Answer(answer)) => {
                let answer = answer.clone();
                Some(Arc::new(move |_| answer.clone()))
            }
            Some(Mishap::Reply(reply)) => Some(Arc::clone(reply)),
            _ => None,
        };
        let keep = match (own, upstream) {
            (None, Some(upstream)) => relay(&client, &mut reader, &mut request, upstream, mishap, script)?,
            (reply, _) => {
                pass_body(&mut reader, &mut request, &mut io::sink(), u64::MAX)?;
                script.remember(&request);
                write_answer(&client, &request, &reply.map_or(Answer::new(404), |reply| reply(&request)))?;
                true
            }
        };
        if !keep {
            break;
        }
    }
    // Unread bytes would turn the close into a reset, which is what a cut is; nothing to be done about the rest.
    let _ = client.shutdown(Shutdown::Both);
    Ok(())
}

/// Passes a request on and its answer back. False when the connection is to be closed.
fn relay(
    client: &TcpStream,
    reader: &mut BufReader<TcpStream>,
    request: &mut Request,
    upstream: SocketAddr,
    mishap: Option<Mishap>,
    script: &Script,
) -> io::Result<bool> {
    if let Some(Mishap::Delay(_) | Mishap::Hold(_)) = mishap {
        script.waiting.lock().unwrap().push(request.clone());
    }
    match &mishap {
        Some(Mishap::Delay(time)) => std::thread::sleep(*time),
        Some(Mishap::Hold(until)) => {
            while !until.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        _ => {}
    }
    let server = TcpStream::connect(upstream)?;
    server.set_read_timeout(Some(READ_LIMIT))?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection" && name != "expect") {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("connection: close\r\n\r\n");
    (&server).write_all(head.as_bytes())?;
    let limit = if let Some(Mishap::CutRequest(bytes)) = mishap { bytes } else { u64::MAX };
    // A registry that has made up its mind stops reading; its answer is passed on all the same.
    let mut to = Patient { server: &server, broken: false };
    let whole = pass_body(reader, request, &mut to, limit);
    script.remember(request);
    if !whole? {
        // Written bytes must arrive before the end of the stream.
        std::thread::sleep(Duration::from_millis(50));
        let _ = server.shutdown(Shutdown::Both);
        return Ok(false);
    }
    answer_back(client, request, &server, mishap.as_ref())
}

/// Writes on where nobody reads any more.
struct Patient<'a> {
    server: &'a TcpStream,
    broken: bool,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.broken = self.broken || self.server.write_all(bytes).is_err();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn answer_back(client: &TcpStream, request: &Request, server: &TcpStream, mishap: Option<&Mishap>) -> io::Result<bool> {
    let mut answer = BufReader::new(server);
    let (status, mut headers) = read_lines(&mut answer)?;
    headers.retain(|(name, _)| name != "connection");
    if let Some(Mishap::Header(name, value)) = mishap {
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.clone(), value.clone()));
    }
    let mut body = Vec::new();
    let framed = headers.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding");
    let head: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    if let Some(Mishap::LoseAnswer) = mishap {
        answer.read_to_end(&mut body)?;
        return Ok(false);
    }
    let mut client = client;
    client.write_all(format!("{status}\r\n{head}\r\n").as_bytes())?;
    match mishap {
        Some(Mishap::CutAnswer(bytes)) => {
            io::copy(&mut answer.take(*bytes), &mut client)?;
            return Ok(false);
        }
        Some(Mishap::Garble) => {
            answer.read_to_end(&mut body)?;
            if let Some(first) = body.first_mut() {
                *first ^= 1;
            }
            client.write_all(&body)?;
        }
        _ => drop(io::copy(&mut answer, &mut client)?),
    }
    let bodiless = request.method == "HEAD" || status.contains(" 204 ") || status.contains(" 304 ");
    Ok(framed || bodiless)
}

fn write_answer(mut client: &TcpStream, request: &Request, answer: &Answer) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
    }
    client.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        client.write_all(&answer.body)?;
    }
    // A length that promises more than there is means: cut here.
    let promised = answer.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if promised.is_some_and(|(_, value)| value != &answer.body.len().to_string()) && request.method != "HEAD" {
        client.shutdown(Shutdown::Both)?;
    }
    Ok(())
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let (line, headers) = read_lines(reader)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    Ok(Some(Request { method, target, headers, body: Vec::new(), length: 0 }))
}

/// The first line and the headers, their names in lower case.
fn read_lines(reader: &mut impl BufRead) -> io::Result<(String, Vec<(String, String)>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.by_ref().take(64 << 10).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let first = if lines.is_empty() { String::new() } else { lines.remove(0) };
    let headers = lines.iter().filter_map(|line| line.split_once(':'));
    Ok((first, headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()))
}

/// Passes the request's body on as it is framed, at most `limit` bytes of it. False when it was cut short.
fn pass_body(reader: &mut impl BufRead, request: &mut Request, to: &mut dyn Write, limit: u64) -> io::Result<bool> {
    if request.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        return pass_chunks(reader, request, to, limit);
    }
    let length = request.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    pass(reader, request, to, length, limit)?;
    Ok(request.length >= length)
}

fn pass(
    reader: &mut impl BufRead,
    request: &mut Request,
    to: &mut dyn Write,
    length: u64,
    limit: u64,
) -> io::Result<()> {
    let mut left = length.min(limit.saturating_sub(request.length));
    let mut piece = vec![0; 64 << 10];
    while left > 0 {
        let wanted = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = reader.read(&mut piece[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let keep = 65_536_usize.saturating_sub(request.body.len()).min(count);
        request.body.extend_from_slice(&piece[..keep]);
        request.length += count as u64;
        left -= count as u64;
        to.write_all(&piece[..count])?;
    }
    Ok(())
}

fn pass_chunks(reader: &mut impl BufRead, request: &mut Request, to: &mut dyn Write, limit: u64) -> io::Result<bool> {
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let digits = size.trim().split(';').next().unwrap_or_default();
        let length = u64::from_str_radix(digits, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        to.write_all(size.as_bytes())?;
        let before = request.length;
        pass(reader, request, to, length, limit)?;
        if request.length - before < length {
            return Ok(false);
        }
        let mut end = String::new();
        reader.read_line(&mut end)?;
        to.write_all(end.as_bytes())?;
        if length == 0 {
            return Ok(true);
        }
    }
}
