//! The thread that looks into files.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use super::super::heap;
use super::{
    library::{self, Library},
    mappings::{FileId, Mapping},
};

/// What was found in a file.
pub(super) struct Answer {
    pub id: FileId,
    pub path: PathBuf,
    pub file: File,
    pub found: io::Result<Vec<Library>>,
}

pub(super) struct Worker {
    /// Dropping it ends the thread.
    questions: Sender<(Mapping, File)>,
    answers: Receiver<Answer>,
    asked: usize,
}

impl Worker {
    pub fn start() -> io::Result<Self> {
        let (questions, asked) = channel::<(Mapping, File)>();
        let (send, answers) = channel();
        thread::Builder::new().name("tls-files".into()).spawn(move || {
            while let Ok((mapping, file)) = asked.recv() {
                let found = library::search(&file, mapping.main);
                heap::give_back();
                let answer = Answer { id: mapping.id, path: mapping.path, file, found };
                if send.send(answer).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers, asked: 0 })
    }

    /// Questions are as many as files are remembered, at most.
    pub fn ask(&mut self, mapping: Mapping, file: File) {
        if self.questions.send((mapping, file)).is_ok() {
            self.asked += 1;
        }
    }

    /// Questions without an answer.
    pub fn asked(&self) -> usize {
        self.asked
    }

    pub fn answer(&mut self, wait: Duration) -> Option<Answer> {
        let answer = match wait {
            Duration::ZERO => self.answers.try_recv().ok(),
            wait => self.answers.recv_timeout(wait).ok(),
        };
        self.asked -= usize::from(answer.is_some());
        answer
    }
}
