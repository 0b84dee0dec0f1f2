//! The machine's own OpenSSL, as a C program uses it: found when it is needed, so that the tests
//! build without its headers.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Ssl = *mut c_void;

/// Functions of libssl.
struct Library {
    new: unsafe extern "C" fn(*mut c_void) -> Ssl,
    set_fd: unsafe extern "C" fn(Ssl, c_int) -> c_int,
    accept: unsafe extern "C" fn(Ssl) -> c_int,
    read: unsafe extern "C" fn(Ssl, *mut c_void, c_int) -> c_int,
    write: unsafe extern "C" fn(Ssl, *const c_void, c_int) -> c_int,
    /// Since 3.0.
    sendfile: Option<unsafe extern "C" fn(Ssl, c_int, i64, usize, c_int) -> isize>,
    free: unsafe extern "C" fn(Ssl),
    write_bio: unsafe extern "C" fn(Ssl) -> *mut c_void,
    ctrl: unsafe extern "C" fn(*mut c_void, c_int, c_long, *mut c_void) -> c_long,
}

/// A server's certificate and key, loaded.
pub struct Context {
    library: Library,
    context: *mut c_void,
    /// Connections have to be the kernel's.
    kernel: bool,
}

// SAFETY: OpenSSL counts references to a context atomically, and it is not changed once it is made.
unsafe impl Send for Context {}
// SAFETY: the same.
unsafe impl Sync for Context {}

const FILETYPE_PEM: c_int = 1;
/// `SSL_OP_ENABLE_KTLS`, and what asks whether it has come to it.
const ENABLE_KTLS: u64 = 1 << 3;
const GET_KTLS_SEND: c_int = 73;

/// A function of a loaded library.
///
/// # Safety
/// `T` is the type of that function.
unsafe fn symbol<T: Copy>(library: *mut c_void, name: &CStr) -> io::Result<T> {
    const { assert!(size_of::<T>() == size_of::<*mut c_void>()) };
    // SAFETY: an open library and a string; the caller knows the type of what is found.
    unsafe {
        let address = libc::dlsym(library, name.as_ptr());
        if address.is_null() {
            return Err(io::Error::other(format!("libssl has no {}", name.to_string_lossy())));
        }
        Ok(std::mem::transmute_copy(&address))
    }
}

impl Context {
    pub fn new(certificate: &Path, key: &Path) -> io::Result<Self> {
        Self::with(certificate, key, false)
    }

    /// OpenSSL gives the keys to the kernel, and goes on being called.
    pub fn for_kernel(certificate: &Path, key: &Path) -> io::Result<Self> {
        Self::with(certificate, key, true)
    }

    fn with(certificate: &Path, key: &Path, kernel: bool) -> io::Result<Self> {
        let path =
            |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
        let (certificate, key) = (path(certificate)?, path(key)?);
        // SAFETY: the signatures are those of the manual pages of OpenSSL 1.1 and 3; pointers are
        // valid for the calls that they are passed to.
        unsafe {
            let names = [c"libssl.so.3", c"libssl.so.1.1"];
            let open = |name: &CStr| libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
            let library = names.into_iter().map(open).find(|library| !library.is_null());
            let library = library.ok_or_else(|| io::Error::other("no libssl on this machine"))?;
            let method: unsafe extern "C" fn() -> *const c_void =
                symbol(library, c"TLS_server_method")?;
            let context: unsafe extern "C" fn(*const c_void) -> *mut c_void =
                symbol(library, c"SSL_CTX_new")?;
            let chain: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int =
                symbol(library, c"SSL_CTX_use_certificate_chain_file")?;
            let private: unsafe extern "C" fn(*mut c_void, *const c_char, c_int) -> c_int =
                symbol(library, c"SSL_CTX_use_PrivateKey_file")?;
            let context = context(method());
            if context.is_null()
                || chain(context, certificate.as_ptr()) != 1
                || private(context, key.as_ptr(), FILETYPE_PEM) != 1
            {
                return Err(io::Error::other("certificate or key cannot be used"));
            }
            if kernel {
                let options: unsafe extern "C" fn(*mut c_void, u64) -> u64 =
                    symbol(library, c"SSL_CTX_set_options")?;
                options(context, ENABLE_KTLS);
            }
            let library = Library {
                new: symbol(library, c"SSL_new")?,
                set_fd: symbol(library, c"SSL_set_fd")?,
                accept: symbol(library, c"SSL_accept")?,
                read: symbol(library, c"SSL_read")?,
                write: symbol(library, c"SSL_write")?,
                sendfile: symbol(library, c"SSL_sendfile").ok(),
                free: symbol(library, c"SSL_free")?,
                write_bio: symbol(library, c"SSL_get_wbio")?,
                // Of libcrypto, which comes with it.
                ctrl: symbol(library, c"BIO_ctrl")?,
            };
            Ok(Self { library, context, kernel })
        }
    }

    /// Takes the server's part of a handshake.
    pub fn accept(self: &Arc<Self>, socket: TcpStream) -> io::Result<Connection> {
        // SAFETY: the context lives as long as `self`; the descriptor as long as the connection.
        let ssl = unsafe {
            let ssl = (self.library.new)(self.context);
            if ssl.is_null() || (self.library.set_fd)(ssl, socket.as_raw_fd()) != 1 {
                return Err(io::Error::other("SSL_new"));
            }
            ssl
        };
        let connection = Connection { context: Arc::clone(self), ssl, socket };
        // SAFETY: a connection with a socket.
        match unsafe { (self.library.accept)(ssl) } {
            1 if self.kernel && !connection.is_of_kernel() => {
                Err(io::Error::other("the kernel does not do the TLS"))
            }
            1 => Ok(connection),
            _ => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// A connection, for one thread at a time.
pub struct Connection {
    context: Arc<Context>,
    ssl: Ssl,
    socket: TcpStream,
}

// SAFETY: OpenSSL lets any thread use a connection, if no other does at the same time; the methods
// that do take `&mut self`.
unsafe impl Send for Connection {}

impl Connection {
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether the kernel encrypts what is written.
    fn is_of_kernel(&self) -> bool {
        let Library { write_bio, ctrl, .. } = self.context.library;
        // SAFETY: a connection with a socket has a BIO; the control takes no pointer.
        unsafe { ctrl(write_bio(self.ssl), GET_KTLS_SEND, 0, std::ptr::null_mut()) == 1 }
    }
}

impl Read for Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = c_int::try_from(buf.len()).unwrap_or(c_int::MAX);
        // SAFETY: the buffer is as long as said.
        let n = unsafe { (self.context.library.read)(self.ssl, buf.as_mut_ptr().cast(), len) };
        // Whatever it was, the connection is over.
        Ok(usize::try_from(n).unwrap_or(0))
    }
}

impl Write for Connection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = c_int::try_from(buf.len()).unwrap_or(c_int::MAX);
        // SAFETY: the buffer is as long as said.
        let n = unsafe { (self.context.library.write)(self.ssl, buf.as_ptr().cast(), len) };
        usize::try_from(n).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: made by `accept`, and not used any more.
        unsafe { (self.context.library.free)(self.ssl) };
    }
}

/// A connection that is read and written in turn. A clone is the same connection.
#[derive(Clone)]
pub struct Shared {
    connection: Arc<Mutex<Connection>>,
    socket: Arc<TcpStream>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shared").field(&self.socket).finish()
    }
}

impl Shared {
    pub fn new(connection: Connection) -> io::Result<Self> {
        let socket = Arc::new(connection.socket().try_clone()?);
        Ok(Self { connection: Arc::new(Mutex::new(connection)), socket })
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends bytes of a file, which takes a connection of the kernel's.
    pub fn sendfile(&self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        let connection = self.lock();
        let library = &connection.context.library;
        let sendfile = library.sendfile.ok_or(io::ErrorKind::Unsupported)?;
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: an open file, and a connection that nobody else uses meanwhile.
        let n = unsafe { sendfile(connection.ssl, file.as_raw_fd(), offset, len, 0) };
        usize::try_from(n).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Shared {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.lock().read(buf)
    }
}

impl Write for Shared {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.lock().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
