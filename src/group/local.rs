//! Ranks that are threads of one process, for tests.

use super::Group;
use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Barrier, Mutex};

type Post = Arc<Mutex<Vec<Option<Box<dyn Any + Send>>>>>;

/// A rank.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    rank: usize,
    post: Post,
    barrier: Arc<Barrier>,
}

impl Local {
    /// Calls `f` in so many ranks at once; what they return, in their order.
    pub(crate) fn with_ranks<R: Send>(ranks: usize, f: impl Fn(Local) -> R + Sync) -> Vec<R> {
        let post: Post = Arc::new(Mutex::new((0..ranks).map(|_| None).collect()));
        let barrier = Arc::new(Barrier::new(ranks));
        let group = |rank| Local { rank, post: post.clone(), barrier: barrier.clone() };
        std::thread::scope(|scope| {
            let f = &f;
            let start = |rank| {
                let group = group(rank);
                scope.spawn(move || f(group))
            };
            let threads: Vec<_> = (0..ranks).map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("no rank panicked")).collect()
        })
    }

    /// What every rank sends, in their order.
    fn exchange<S: Clone + Send + 'static>(&self, sent: S) -> Vec<S> {
        self.post.lock().unwrap()[self.rank] = Some(Box::new(sent));
        self.barrier.wait();
        let read = |sent: &Option<Box<dyn Any + Send>>| {
            sent.as_ref().and_then(|sent| sent.downcast_ref::<S>()).expect("all call the same").clone()
        };
        let all = self.post.lock().unwrap().iter().map(read).collect();
        self.barrier.wait();
        all
    }

    fn gather<S: Copy + Send + 'static>(&self, whole: &mut [S], parts: &[Range<usize>]) {
        let sent = self.exchange(whole[parts[self.rank].clone()].to_vec());
        parts.iter().zip(sent).for_each(|(part, sent)| whole[part.clone()].copy_from_slice(&sent));
    }
}

impl<T: Copy + Send + 'static> Group<T> for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.post.lock().unwrap().len()
    }

    fn all_to_all(&self, senders: &[bool], whole: &[T], parts: &[Range<usize>], received: &mut [T]) {
        let sent = self.exchange(if senders[self.rank] { whole.to_vec() } else { Vec::new() });
        let mine = parts[self.rank].clone();
        let of_mine: Vec<T> = sent
            .iter()
            .filter(|sent| !sent.is_empty())
            .flat_map(|sent| sent[mine.clone()].to_vec())
            .collect();
        received.copy_from_slice(&of_mine);
    }

    fn all_gather(&self, whole: &mut [T], parts: &[Range<usize>]) {
        self.gather(whole, parts);
    }

    fn all_gather_numbers(&self, whole: &mut [f64], parts: &[Range<usize>]) {
        self.gather(whole, parts);
    }

    fn broadcast(&self, values: &mut [T]) {
        values.copy_from_slice(&self.exchange(values.to_vec())[0]);
    }

    fn broadcast_bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.exchange(bytes).swap_remove(0)
    }
}
