//! The hand-over between the engine's thread and those who wait for it, in every order of its steps.
#![cfg(loom)]

#[path = "../../../src/scheduler/channel.rs"]
#[allow(dead_code)]
mod channel;

#[cfg(test)]
mod tests {
    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use crate::channel::{Bell, Receiver, Sender, channel};

    /// Hands an event over as the engine does: it waits for nobody but its bell. False if the reader has left.
    fn hand_over(sender: &Sender<u32>, bell: &Bell, mut event: u32) -> bool {
        while !sender.is_closed() {
            match sender.send(event) {
                Ok(()) => return true,
                Err(back) => event = back,
            }
            bell.wait();
        }
        false
    }

    fn both(capacity: usize) -> (Arc<Bell>, Sender<u32>, Receiver<u32>) {
        let bell = Arc::new(Bell::default());
        let (sender, receiver) = channel(capacity, bell.clone());
        (bell, sender, receiver)
    }

    #[test]
    fn a_ring_is_never_lost() {
        loom::model(|| {
            let bell = Arc::new(Bell::default());
            let done = Arc::new(AtomicBool::new(false));
            let (theirs, set) = (bell.clone(), done.clone());
            let other = thread::spawn(move || {
                set.store(true, Ordering::Release);
                theirs.ring();
            });
            while !done.load(Ordering::Acquire) {
                bell.wait();
            }
            other.join().unwrap();
        });
    }

    #[test]
    fn requests_wake_an_engine_that_has_nothing_to_do() {
        loom::model(|| {
            let bell = Arc::new(Bell::default());
            let inbox = Arc::new(Mutex::new(0));
            let clients: Vec<_> = (0..2)
                .map(|_| {
                    let (bell, inbox) = (bell.clone(), inbox.clone());
                    thread::spawn(move || {
                        *inbox.lock().unwrap() += 1;
                        bell.ring();
                    })
                })
                .collect();
            let mut taken = 0;
            while taken < 2 {
                let new = std::mem::take(&mut *inbox.lock().unwrap());
                taken += new;
                if new == 0 {
                    bell.wait();
                }
            }
            clients.into_iter().for_each(|c| c.join().unwrap());
        });
    }

    #[test]
    fn a_slow_reader_gets_everything_in_order() {
        // More switches than this against a thread's will find nothing new, and take minutes.
        let mut orders = loom::model::Builder::new();
        orders.preemption_bound = Some(3);
        orders.check(|| {
            let (bell, sender, receiver) = both(1);
            let reader = thread::spawn(move || {
                let mut all = Vec::new();
                while let Some(event) = receiver.recv() {
                    all.push(event);
                }
                all
            });
            assert!((0..3).all(|event| hand_over(&sender, &bell, event)));
            drop(sender);
            assert_eq!(reader.join().unwrap(), [0, 1, 2]);
        });
    }

    #[test]
    fn a_reader_that_leaves_wakes_the_engine() {
        loom::model(|| {
            let (bell, sender, receiver) = both(1);
            let reader = thread::spawn(move || {
                receiver.recv();
                drop(receiver);
            });
            // More than ever finds room: it ends because the reader has left.
            assert!(!(0..4).all(|event| hand_over(&sender, &bell, event)));
            assert!(sender.is_closed());
            reader.join().unwrap();
        });
    }

    #[test]
    fn an_engine_that_ends_leaves_nobody_waiting() {
        loom::model(|| {
            let (_, sender, receiver) = both(2);
            let reader = thread::spawn(move || (receiver.recv(), receiver.recv()));
            sender.send(7).unwrap();
            drop(sender);
            assert_eq!(reader.join().unwrap(), (Some(7), None));
        });
    }
}
