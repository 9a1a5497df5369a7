//! A folder on http://127.0.0.1, for this machine alone: enough of HTTP for a browser to get files.

use crate::{Error, Result};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// No request of a browser's is longer.
const LONGEST_REQUEST: u64 = 1 << 16;

/// Serves the files of a folder until the program is ended; port 0 is any that is free. `ready` is called with
/// the page's address.
pub fn serve(folder: &Path, port: u16, ready: impl FnOnce(&str)) -> Result<()> {
    let refused = |e: io::Error| {
        let help = "another program may have it; --serve 0 takes any that is free";
        Error::invalid("--serve", "a port that can be listened on", format!("{port} ({e})"), help)
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(refused)?;
    let port = listener.local_addr().map_err(refused)?.port();
    ready(&format!("http://127.0.0.1:{port}/"));
    std::thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            // Browsers open connections that they use later, so that each has a thread of its own. One that
            // fails is the browser's to try again.
            scope.spawn(move || answer(stream, folder));
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, folder: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut lines = BufReader::new((&stream).take(LONGEST_REQUEST)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // The rest of the request is read, since a connection that is closed before may lose the answer.
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method != "GET" && method != "HEAD" {
        return write_answer(&mut stream, "405 Method Not Allowed", "text/plain", b"only GET\n", true);
    }
    let found = file(folder, target).and_then(|file| Some((kind(&file), fs::read(file).ok()?)));
    match found {
        Some((kind, contents)) => write_answer(&mut stream, "200 OK", kind, &contents, method == "GET"),
        None => write_answer(&mut stream, "404 Not Found", "text/plain", b"nothing there\n", method == "GET"),
    }
}

/// The file below the folder that a request's target names, if it names one.
fn file(folder: &Path, target: &str) -> Option<PathBuf> {
    let path = target.split(['?', '#']).next()?.strip_prefix('/')?;
    let path = if path.is_empty() { "index.html" } else { path };
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    inside.then(|| folder.join(path)).filter(|file| file.is_file())
}

fn kind(file: &Path) -> &'static str {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("png") => "image/png",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}

fn write_answer(
    stream: &mut TcpStream,
    status: &str,
    kind: &str,
    contents: &[u8],
    with_contents: bool,
) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-cache\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        contents.len()
    )?;
    if with_contents {
        stream.write_all(contents)?;
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_below_the_folder_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("site");
        fs::create_dir_all(root.join("model")).unwrap();
        for name in ["site/index.html", "site/model/config.json", "secret"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        assert_eq!(file(&root, "/"), Some(root.join("index.html")));
        assert_eq!(file(&root, "/model/config.json?now"), Some(root.join("model/config.json")));
        for target in
            ["/../secret", "//etc/passwd", "/model/../../secret", "/model", "/none", "", "*", "/./index.html"]
        {
            assert_eq!(file(&root, target), None, "{target}");
        }
    }
}
