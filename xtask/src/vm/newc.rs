//! Writing an initramfs: the "newc" form of cpio, as the kernel reads it
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive that grows in memory.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TEXT: u32 = 0o100_644;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

impl Archive {
    /// A directory; its parents must have been added before.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, (0, 0), &[]);
    }

    /// A file that everybody may read and execute.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// A file that everybody may read.
    pub fn text(&mut self, path: &str, content: &str) {
        self.entry(path, TEXT, (0, 0), content.as_bytes());
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, to: &str) {
        self.entry(path, SYMLINK, (0, 0), to.as_bytes());
    }

    /// A character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let path = path.trim_start_matches('/');
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len()).unwrap_or(u32::MAX).saturating_add(1);
        // inode, mode, uid, gid, links, mtime, size, the file system's device,
        // the file's own device, length of the name with its NUL, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_kernel_documents() {
        let mut archive = Archive::default();
        archive.file("/a", b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with(
            "07070100000001000081ed0000000000000000000000010000000000000005\
             0000000000000000000000000000000000000002000000\
             00a\0"
        ));
        assert_eq!(bytes.len() % 4, 0);
        let content = bytes.windows(5).position(|window| window == b"hello");
        assert_eq!(content.map(|at| at % 4), Some(0));
        assert!(text.contains("TRAILER!!!"));
    }
}
