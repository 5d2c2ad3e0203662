//! What the manager says to whoever looks at `outlast up`: its log lines, passed on by the guardian. Bounded; what
//! has no room is not shown, and stands in the manager's log file.

use std::io;

use tokio::sync::mpsc;

/// Lines that wait for the guardian.
const LINES_MAX: usize = 256;

/// Both ends of the way.
pub struct OperatorLines {
    sender: mpsc::Sender<String>,
    pub(super) receiver: mpsc::Receiver<String>,
}

impl OperatorLines {
    /// A way that nothing has gone yet.
    #[expect(clippy::new_without_default, reason = "made once, by who starts a manager")]
    pub fn new() -> OperatorLines {
        let (sender, receiver) = mpsc::channel(LINES_MAX);
        OperatorLines { sender, receiver }
    }

    /// What a log writes to.
    pub fn writer(&self) -> OperatorWriter {
        OperatorWriter { sender: self.sender.clone() }
    }
}

/// Takes one line a write, as a log's formatter makes them.
#[derive(Debug, Clone)]
pub struct OperatorWriter {
    sender: mpsc::Sender<String>,
}

impl io::Write for OperatorWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        // Lost when nobody reads.
        let _ = self.sender.try_send(text.trim_end().to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
