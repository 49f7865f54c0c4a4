//! The client against servers on loopback that write down what they are asked.

use super::*;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

/// Long enough that nothing waits for it.
const LONG: RequestLimits = RequestLimits { connection: Duration::from_secs(60), request: Duration::from_secs(60) };
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that gives every request the same answer, and the heads of what it was asked, with the number of the connection.
fn serve(answer: &'static str) -> (String, Receiver<(usize, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, asked) = channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                while let Some(head) = head(&stream) {
                    // Whoever has gone does not read.
                    let _ = sender.send((number, head)).map(|()| (&stream).write_all(answer.as_bytes()));
                }
            });
        }
    });
    (address, asked)
}

/// The head of a request in small letters; none at the connection's end. There is one request at a time.
fn head(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        if reader.read_line(&mut text).ok()? == 0 {
            return None;
        }
    }
    Some(text.to_ascii_lowercase())
}

fn nobody() -> Matcher {
    Matcher::builder().build()
}

async fn get(to: &str, proxies: &Matcher, limits: RequestLimits) -> Result<Answer, String> {
    let uri: Uri = to.parse().unwrap();
    Client::new(&uri, proxies, limits)?.get(uri, Some(HeaderValue::from_static("Bearer t")), 1_000).await
}

#[tokio::test]
async fn a_request_names_its_path_its_host_and_us() {
    let (address, asked) = serve(OK);
    let answer = get(&format!("http://{address}/a?b=c"), &nobody(), LONG).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.unwrap()), (200, b"ok".to_vec()));
    let (_, head) = asked.recv().unwrap();
    assert!(head.starts_with("get /a?b=c http/1.1\r\n"), "{head}");
    for line in [format!("host: {address}"), "authorization: bearer t".to_owned(), "accept: */*".to_owned()] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    assert!(head.contains("\r\nuser-agent: autoscaler/"), "{head}");
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let (address, asked) = serve(OK);
    let uri: Uri = format!("http://{address}/").parse().unwrap();
    let client = Client::new(&uri, &nobody(), LONG).unwrap();
    for _ in 0..3 {
        client.get(uri.clone(), None, 10).await.unwrap();
    }
    assert_eq!(asked.try_iter().map(|(connection, _)| connection).collect::<Vec<_>>(), [0, 0, 0]);
}

#[tokio::test]
async fn a_redirect_takes_the_token_nowhere() {
    let (elsewhere, stolen) = serve(OK);
    let text = format!("HTTP/1.1 302 Found\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
    let (address, _asked) = serve(Box::leak(text.into_boxed_str()));
    let answer = get(&format!("http://{address}/"), &nobody(), LONG).await.unwrap();
    assert_eq!(answer.status.as_u16(), 302);
    assert_eq!(stolen.try_iter().count(), 0);
}

#[tokio::test]
async fn a_proxy_without_tls_is_asked_for_the_whole_address() {
    let (address, asked) = serve(OK);
    let proxies = Matcher::builder().all(format!("http://Us%20er:pass@{address}")).no("other.test").build();
    get("http://prometheus.test:9090/a?b=c", &proxies, LONG).await.unwrap();
    let (_, head) = asked.recv().unwrap();
    assert!(head.starts_with("get http://prometheus.test:9090/a?b=c http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: prometheus.test:9090\r\n"), "{head}");
    // `Us er:pass`, in small letters.
    assert!(head.contains("\r\nproxy-authorization: basic vxmgzxi6cgfzcw==\r\n"), "{head}");
}

#[tokio::test]
async fn a_host_without_a_proxy_is_asked_itself() {
    let (proxy, asked) = serve(OK);
    let (address, _asked) = serve(OK);
    let proxies = Matcher::builder().all(format!("http://{proxy}")).no("127.0.0.0/8").build();
    get(&format!("http://{address}/"), &proxies, LONG).await.unwrap();
    assert_eq!(asked.try_iter().count(), 0);
}

#[tokio::test]
async fn tls_is_tunnelled_and_the_proxy_sees_no_token() {
    let (address, asked) = serve("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n");
    let proxies = Matcher::builder().https(format!("http://user:pass@{address}")).build();
    let error = get("https://prometheus.test/a", &proxies, LONG).await.unwrap_err();
    assert_eq!(error, "cannot connect: tunnel error: proxy authorization required");
    let (_, head) = asked.recv().unwrap();
    assert!(head.starts_with("connect prometheus.test:443 http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nproxy-authorization: basic dxnlcjpwyxnz\r\n") && !head.contains("bearer"), "{head}");
}

#[tokio::test]
async fn another_kind_of_proxy_is_said_before_anything_is_asked() {
    let proxies = Matcher::builder().all("socks5://user:pass@127.0.0.1:1").build();
    let error = get("http://prometheus.test/", &proxies, LONG).await.unwrap_err();
    assert!(error.contains("`socks5://127.0.0.1:1/`") && error.contains("NO_PROXY"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_said_with_the_cause() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = get(&format!("http://{port}/"), &nobody(), LONG).await.unwrap_err();
    assert!(error.starts_with("cannot connect: Connection refused"), "{error}");
}

#[tokio::test]
async fn a_connection_that_ends_early_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        head(&stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").unwrap();
    });
    let error = get(&format!("http://{address}/"), &nobody(), LONG).await.unwrap_err();
    assert!(error.starts_with("the connection broke: "), "{error}");
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_late() {
    let (address, _asked) = serve("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
    let limits = RequestLimits { request: Duration::from_millis(200), ..LONG };
    let error = get(&format!("http://{address}/"), &nobody(), limits).await.unwrap_err();
    assert_eq!(error, "it does not answer in time: no complete answer within 200ms");
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_late() {
    // Open, and its proxy never says whether there is a tunnel.
    let (address, _asked) = serve("");
    let proxies = Matcher::builder().all(format!("http://{address}")).build();
    let limits = RequestLimits { connection: Duration::from_millis(200), ..LONG };
    let error = get("https://prometheus.test/", &proxies, limits).await.unwrap_err();
    assert_eq!(error, "it does not answer in time: no connection within 200ms");
}

#[tokio::test]
async fn a_large_answer_is_not_read_to_its_end() {
    // It says a terabyte: reading all of it would not end.
    let (address, _asked) = serve(Box::leak(
        format!("HTTP/1.1 500 Oh\r\ncontent-length: 1000000000000\r\n\r\n{}", "x".repeat(5_000)).into_boxed_str(),
    ));
    let answer = get(&format!("http://{address}/"), &nobody(), LONG).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body), (500, None));
}
