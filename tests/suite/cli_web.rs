//! `export --web` through the binary: the page's files, and their server. `tests/browser` has the page itself.

use crate::support::binary::{command, run, succeed};
use crate::support::networks::randomised;
use performer_ddpm::checkpoint::{in_memory, model_folder};
use performer_ddpm::config::{DiffusionConfig, Preset};
use performer_ddpm::data::Picture;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

/// The files of the page's model, as the page takes them.
fn model_of(site: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let names = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ];
    names.map(|name| (name, fs::read(site.join("model").join(name)).expect(name))).to_vec()
}

#[test]
fn the_page_has_the_model_the_engine_and_the_garments() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let diffusion = DiffusionConfig { timesteps: 40, ..DiffusionConfig::default() };
    let model = randomised(&Preset::Tiny.config().unet, 3);
    model_folder::save(&folder.join("model"), &model, None, &diffusion).expect("a model");
    let told = succeed(folder, &["export", "--web", "site", "--model", "model"]);
    assert_eq!(told.trim_end(), "site/index.html");

    let site = folder.join("site");
    let files = model_of(&site);
    let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let loaded = in_memory::load::<f32>(&files).expect("the page's model");
    assert!(loaded.model == model && loaded.diffusion == diffusion);
    // Every file that the page names is there, and the engine is WebAssembly.
    for (from, names) in [
        ("index.html", &["style.css", "app.js"][..]),
        (
            "app.js",
            &["images.js", "lane.js", "mask.js", "math.js", "engine.wasm", "site.json", "garments.png"],
        ),
        ("lane.js", &["worker.js"]),
    ] {
        let text = fs::read_to_string(site.join(from)).expect(from);
        for name in names {
            assert!(text.contains(name) && site.join(name).is_file(), "{name} of {from}");
        }
    }
    assert!(fs::read(site.join("engine.wasm")).expect("an engine").starts_with(b"\0asm"));
    assert_eq!(Picture::open(&site.join("garments.png")).expect("a picture").size(), (28, 280));
    let about = fs::read_to_string(site.join("site.json")).expect("a file");
    assert!(about.contains("\"model\": \"model\"") && about.contains("\"Ankle boot\""), "{about}");

    // The same folder is written again; the model that the program carries goes as it is.
    succeed(folder, &["export", "--web", "site", "--model", "fashion", "--json"]);
    for (name, bytes) in model_of(&site) {
        let carried = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fashion-model").join(name);
        assert!(fs::read(carried).expect("a file") == bytes, "{name}");
    }
}

#[test]
fn what_is_no_place_or_no_model_for_a_page_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::create_dir(folder.join("other")).expect("a folder");
    fs::write(folder.join("other/index.html"), "another page").expect("a file");
    fs::write(folder.join("a.onnx"), "").expect("a file");
    for (arguments, told) in [
        (&["export", "--web", "other", "--model", "fashion"][..], "a folder with another page"),
        (&["export", "--web", "site", "--model", "a.onnx"], "an .onnx file"),
        (&["export", "--web", "site", "--model", "none"], "nothing there"),
        (&["export", "a.onnx", "--web", "site"], "cannot be used with"),
        (&["export", "--web", "site", "--steps", "5"], "cannot be used with"),
        (&["export", "a.onnx", "--serve", "0"], "cannot be used with"),
        (&["export"], "OUT.onnx"),
    ] {
        let output = run(folder, arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(told), "{arguments:?}: {message}");
    }
    assert!(!folder.join("site").exists());
    assert_eq!(fs::read_to_string(folder.join("other/index.html")).expect("a file"), "another page");
}

#[test]
fn the_server_gives_the_page_and_nothing_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("secret"), "secret").expect("a file");
    let mut child = command(folder, &["export", "--web", "site", "--model", "fashion", "--serve", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    let host = line.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix('/'));
    let host = host.unwrap_or_else(|| panic!("an address: {line:?}"));
    let get = |request: &str| {
        let mut stream = TcpStream::connect(host).expect("a connection");
        write!(stream, "{request} HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answers = [
        ("GET /", "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"),
        ("GET /engine.wasm?now", "HTTP/1.1 200 OK\r\nContent-Type: application/wasm\r\n"),
        ("GET /../secret", "HTTP/1.1 404"),
        ("GET /model", "HTTP/1.1 404"),
        ("POST /", "HTTP/1.1 405"),
        ("", "HTTP/1.1 405"),
    ];
    let got: Vec<String> = answers.iter().map(|(request, _)| get(request)).collect();
    let head = get("HEAD /style.css");
    child.kill().expect("the binary ends");
    child.wait().expect("its end");
    for ((request, want), got) in answers.iter().zip(&got) {
        assert!(got.starts_with(want), "{request}: {}", got.lines().next().unwrap_or_default());
    }
    assert!(got[0].ends_with("</html>\n"));
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"), "{head}");
}
