//! Giving up root.

use std::{ffi::CString, fmt};

use nix::{
    errno::Errno,
    unistd::{Uid, User, geteuid, initgroups, setgid, setuid},
};

/// Becomes `name` for good, with that user's groups. Does nothing when not started as root.
pub(super) fn drop_to(name: &str) -> Result<(), PrivilegeError> {
    if !geteuid().is_root() {
        tracing::warn!(user = name, "not started as root: server.user has no effect");
        return Ok(());
    }
    let failed = |errno| PrivilegeError { name: name.to_owned(), errno: Some(errno) };
    let user = User::from_name(name)
        .map_err(failed)?
        .ok_or(PrivilegeError { name: name.to_owned(), errno: None })?;
    let login = CString::new(name).map_err(|_| failed(Errno::EINVAL))?;
    initgroups(&login, user.gid).map_err(failed)?;
    setgid(user.gid).map_err(failed)?;
    setuid(user.uid).map_err(failed)?;
    // There must be no way back.
    if !user.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(failed(Errno::EPERM));
    }
    tracing::info!(user = name, "root given up");
    Ok(())
}

/// The process cannot become the user that it should.
#[derive(Debug)]
pub(crate) struct PrivilegeError {
    name: String,
    errno: Option<Errno>,
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.errno {
            None => {
                write!(f, "server.user: there is no user {name:?}; create it (`useradd --system {name}`)")
            }
            Some(errno) => write!(f, "server.user: cannot become {name:?}: {errno}"),
        }
    }
}

impl std::error::Error for PrivilegeError {}
