//! Tar archives made up block by block, so that they can be as wrong as is wanted.

/// The unit of a tar archive, in bytes.
pub const BLOCK: usize = 512;

/// An archive that is being made up; it has no end mark before [`Tar::end`].
#[derive(Clone, Debug, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// Adds a regular file.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> &mut Tar {
        self.entry(b'0', name, "", bytes)
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) -> &mut Tar {
        self.entry(b'5', name, "", b"")
    }

    /// Adds an entry of any type (POSIX.1-1988 "ustar", GNU's long names).
    pub fn entry(&mut self, kind: u8, name: &str, target: &str, bytes: &[u8]) -> &mut Tar {
        if name.len() > 100 {
            self.entry(b'L', "././@LongLink", "", &[name.as_bytes(), b"\0"].concat());
        }
        let mut header = [0; BLOCK];
        let mut field = |at: usize, longest: usize, bytes: &[u8]| {
            let n = bytes.len().min(longest);
            header[at..at + n].copy_from_slice(&bytes[..n]);
        };
        field(0, 100, name.as_bytes());
        field(100, 8, b"0000644\0");
        field(108, 8, b"0000000\0");
        field(116, 8, b"0000000\0");
        field(124, 12, format!("{:011o}\0", bytes.len()).as_bytes());
        field(136, 12, b"00000000000\0");
        field(148, 8, b"        ");
        field(156, 1, &[kind]);
        field(157, 100, target.as_bytes());
        field(257, 8, b"ustar  \0");
        if kind == b'S' {
            // GNU's sparse files: the size when unpacked.
            field(483, 12, format!("{:011o}\0", bytes.len()).as_bytes());
        }
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// The archive as it is so far, without end mark.
    pub fn unended(&self) -> &[u8] {
        &self.0
    }

    /// The whole archive.
    pub fn end(&self) -> Vec<u8> {
        [self.0.as_slice(), &[0; 2 * BLOCK]].concat()
    }
}
