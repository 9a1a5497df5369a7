//! Where JavaScript calls in and is called.
//!
//! JavaScript sees this module's memory, so that one buffer is all that is exchanged: it asks for the buffer's
//! place with `reserve`, writes there, and calls `add_file` or `answer`, which read what was written. What is
//! told goes the other way: `tell` is a function of the page's, which is given the place and the length of a
//! text and of numbers and copies them before it returns.
//!
//! `unsafe` is here for two declarations and for no code: that no other function of the program has the names
//! of the three that are called, and that `tell` exists with these arguments, which are numbers that it is free
//! to do anything with. Nothing here follows a pointer. JavaScript writes into the buffer while no Rust runs,
//! as a device would: between `reserve`, which leaves the buffer alone afterwards, and the next call, which
//! reads it through a function that the compiler cannot see through.
#![allow(unsafe_code)]

use crate::session::Session;
use crate::told::Told;
use std::cell::RefCell;
use std::hint::black_box;

unsafe extern "C" {
    /// The page's: a text in UTF-8 and `f32` numbers, by their places and lengths.
    safe fn tell(text: usize, text_len: usize, numbers: usize, numbers_len: usize);
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SESSION: RefCell<Session> = RefCell::default();
}

/// Makes room for `len` bytes and returns their place, which is good until the next call.
#[unsafe(no_mangle)]
extern "C" fn reserve(len: usize) -> usize {
    std::panic::set_hook(Box::new(|panic| say(&Told::error(&panic.to_string()), &[])));
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        buffer.resize(len, 0);
        buffer.as_mut_ptr() as usize
    })
}

/// Keeps a file of the model for the next request to load it. The buffer holds its path, `name` bytes, and its
/// contents.
#[unsafe(no_mangle)]
extern "C" fn add_file(name: usize) {
    let bytes = written();
    let (path, contents) = bytes.split_at(name.min(bytes.len()));
    let path = String::from_utf8_lossy(path).into_owned();
    SESSION.with_borrow_mut(|session| session.add_file(path, contents.to_vec()));
}

/// Does what the buffer asks for: a request, `json` bytes, and numbers that belong to it.
#[unsafe(no_mangle)]
extern "C" fn answer(json: usize) {
    let bytes = written();
    let (request, numbers) = bytes.split_at(json.min(bytes.len()));
    SESSION.with_borrow_mut(|session| {
        session.answer(request, numbers, &mut |told, numbers| say(&told, numbers))
    });
}

/// What JavaScript wrote.
fn written() -> Vec<u8> {
    BUFFER.with_borrow_mut(|buffer| black_box(std::mem::take(buffer)))
}

fn say(told: &Told, numbers: &[f32]) {
    let text = told.json();
    tell(text.as_ptr() as usize, text.len(), numbers.as_ptr() as usize, numbers.len());
}
