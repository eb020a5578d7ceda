//! A buffer that ends where memory without access begins.

/// A copy of some bytes that ends `shift` bytes before a page without access, and starts after one.
pub struct Guarded {
    map: *mut u8,
    map_len: usize,
    start: usize,
    len: usize,
}

const PAGE: usize = 4096;

impl Guarded {
    /// With `shift` 0 the first byte too far faults; other shifts give odd alignments.
    pub fn new(data: &[u8], shift: usize) -> Self {
        let inner = (data.len() + shift).next_multiple_of(PAGE).max(PAGE);
        let map_len = inner + 2 * PAGE;
        // SAFETY: a fresh private mapping; the inner part is opened for reading and writing.
        let map: *mut u8 = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let p = libc::mmap(
                core::ptr::null_mut(),
                map_len,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            );
            assert_ne!(p, libc::MAP_FAILED);
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(p.byte_add(PAGE), inner, rw), 0);
            p.cast()
        };
        let start = PAGE + inner - shift - data.len();
        let mut guarded = Self {
            map,
            map_len,
            start,
            len: data.len(),
        };
        guarded.bytes_mut().copy_from_slice(data);
        guarded
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start..start + len` lies in the readable part.
        unsafe { core::slice::from_raw_parts(self.map.add(self.start), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `start..start + len` lies in the writable part, and is ours alone.
        unsafe { core::slice::from_raw_parts_mut(self.map.add(self.start), self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used any more.
        unsafe { libc::munmap(self.map.cast(), self.map_len) };
    }
}
