//! passwd(5) and group(5) of the container's own files. The C library's look-ups would load code and configuration
//! that the image controls.

use super::ids::{self, IdOrName};

/// A user as found in the container's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The user's primary group.
    pub gid: u32,
    /// Ids of the groups that list the user as a member.
    pub groups: Vec<u32>,
    /// Home directory; `None` when the passwd file does not have the user.
    pub home: Option<String>,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = ids::parse(fields.nth(1)?)?;
        let gid = ids::parse(fields.next()?)?;
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// Name, id and members of each group.
fn group_entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = ids::parse(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// The home directory of a uid; `None` when it is unknown or empty.
pub fn home(passwd: &str, uid: u32) -> Option<&str> {
    passwd_entries(passwd).find(|entry| entry.uid == uid).map(|entry| entry.home).filter(|home| !home.is_empty())
}

/// The name of a uid; `None` when it is unknown.
pub fn name(passwd: &str, uid: u32) -> Option<&str> {
    passwd_entries(passwd).find(|entry| entry.uid == uid).map(|entry| entry.name)
}

/// Parses `user[:group]`, each of them an id or a name.
///
/// # Errors
/// A message that names the part that is neither.
pub(crate) fn parse_user(user: &str) -> Result<(IdOrName<'_>, Option<IdOrName<'_>>), String> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let uid = ids::parse_or_name(name).map_err(|reason| format!("user {reason}"))?;
    let gid = group.map(ids::parse_or_name).transpose().map_err(|reason| format!("group {reason}"))?;
    Ok((uid, gid))
}

/// Looks `user[:group]` up in the text of the passwd and the group file.
///
/// # Errors
/// A message that names the part that is neither a decimal id nor in its file.
pub fn identify(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (wanted, wanted_group) = parse_user(user)?;
    let (entry, uid) = match wanted {
        IdOrName::Id(uid) => (passwd_entries(passwd).find(|entry| entry.uid == uid), uid),
        IdOrName::Name(name) => {
            let entry = passwd_entries(passwd).find(|entry| entry.name == name);
            let entry = entry.ok_or_else(|| format!("user {name:?}: it is neither a decimal id nor in /etc/passwd"))?;
            let uid = entry.uid;
            (Some(entry), uid)
        }
    };
    let gid = match wanted_group {
        Some(IdOrName::Id(gid)) => gid,
        Some(IdOrName::Name(wanted)) => group_entries(group)
            .find(|(name, ..)| *name == wanted)
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| format!("group {wanted:?}: it is neither a decimal id nor in /etc/group"))?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let groups = match (&entry, wanted_group) {
        (Some(entry), None) => group_entries(group)
            .filter(|(_, _, members)| members.split(',').any(|member| member == entry.name))
            .map(|(_, gid, _)| gid)
            .collect(),
        _ => Vec::new(),
    };
    let home = entry.map(|entry| entry.home.to_owned()).filter(|home| !home.is_empty());
    Ok(Identity { uid, gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:\nbroken\nx:x:-1:0::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nlogs:x:44:web,other\n";

    #[test]
    fn names_and_ids_are_found() {
        let web = Identity { uid: 33, gid: 33, groups: vec![44], home: Some("/srv".to_owned()) };
        assert_eq!(identify("web", PASSWD, GROUP), Ok(web.clone()));
        assert_eq!(identify("33", PASSWD, GROUP), Ok(web));
        let other = identify("1000:logs", PASSWD, GROUP).unwrap();
        assert_eq!((other.uid, other.gid, other.home), (1000, 44, None));
        assert_eq!(home(PASSWD, 0), Some("/root"));
    }

    #[test]
    fn a_name_that_looks_like_a_number_is_never_looked_up() {
        let names = ["-1", "+1", "01000", " 1", "1 ", "0x10", "1e3", "4294967295", "4294967296", "99999999999", ""];
        for name in names {
            let (passwd, group) = (format!("{name}:x:0:0::/:\n"), format!("{name}:x:0:\n"));
            assert!(identify(name, &passwd, &group).is_err(), "{name:?}");
            assert!(identify(&format!("1:{name}"), &passwd, &group).is_err(), "1:{name:?}");
        }
        assert!(identify("nobody", PASSWD, GROUP).unwrap_err().contains("nobody"));
        assert!(identify("web:none", PASSWD, GROUP).unwrap_err().contains("none"));
    }

    #[test]
    fn lines_with_invalid_ids_are_skipped() {
        for id in ["4294967295", "4294967296", "-1", "01"] {
            assert!(identify("a", &format!("a:x:{id}:0::/:\n"), "").is_err(), "uid {id}");
            assert!(identify("a", &format!("a:x:0:{id}::/:\n"), "").is_err(), "gid {id}");
            assert!(identify("1:a", "", &format!("a:x:{id}:\n")).is_err(), "group {id}");
        }
    }
}
