//! Where lines go: a thread that writes, and files that are put away when they are full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{atomic::Ordering::Relaxed, mpsc::Receiver},
};

use super::{AuditError, AuditOutput, Counts};

pub(super) enum Output {
    Stderr,
    File { file: File, length: u64, path: PathBuf, bytes_max: u64, files_max: usize },
}

impl Output {
    pub(super) fn open(output: AuditOutput) -> Result<Self, AuditError> {
        match output {
            AuditOutput::Stderr => Ok(Self::Stderr),
            AuditOutput::File { path, bytes_max, files_max } => match append(&path) {
                Ok((file, length)) => Ok(Self::File { file, length, path, bytes_max, files_max }),
                Err(source) => Err(AuditError { path, source }),
            },
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(line),
            Self::File { file, length, path, bytes_max, files_max } => {
                if *length > 0 && *length + line.len() as u64 > *bytes_max {
                    put_away(path, *files_max)?;
                    (*file, *length) = append(path)?;
                }
                file.write_all(line)?;
                *length += line.len() as u64;
                Ok(())
            }
        }
    }
}

/// Writes until nobody can send any more and everything is written.
pub(super) fn run(mut output: Output, lines: &Receiver<Vec<u8>>, counts: &Counts) {
    let mut failing = false;
    for line in lines {
        match output.write(&line) {
            Ok(()) => {
                failing = false;
                counts.written.fetch_add(1, Relaxed);
            }
            Err(error) => {
                counts.dropped.fetch_add(1, Relaxed);
                if !failing {
                    tracing::error!("the audit log cannot be written, lines are dropped: {error}");
                }
                failing = true;
            }
        }
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// The full file becomes number 1, and every older one the next; the last goes.
fn put_away(path: &Path, files_max: usize) -> io::Result<()> {
    let older = |number: usize| match number {
        0 => path.to_owned(),
        number => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        }
    };
    if files_max <= 1 {
        return fs::remove_file(path);
    }
    for number in (0..files_max - 1).rev() {
        match fs::rename(older(number), older(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_away_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let output = || AuditOutput::File { path: path.clone(), bytes_max: 10, files_max: 3 };
        let mut log = Output::open(output()).unwrap();
        for number in 0..4 {
            log.write(format!("line {number}\n").as_bytes()).unwrap();
        }
        // What is there is gone on with.
        let mut log = Output::open(output()).unwrap();
        log.write(b"5\n").unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!([read("audit.log"), read("audit.log.1"), read("audit.log.2")], ["line 3\n5\n", "line 2\n", "line 1\n"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        log.write(b"a line that is longer than a file may be\n").unwrap();
        assert_eq!(read("audit.log.2"), "line 2\n");
        assert!(Output::open(AuditOutput::File { path: folder.path().join("no/log"), bytes_max: 1, files_max: 1 }).is_err());
    }
}
