//! passwd(5) and group(5) read from the container's own files. The C library's look-ups would load code and
//! configuration that the image controls.
#![forbid(unsafe_code)]

/// A user as `-u` and config.json may name it: strict decimal, or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups that list the user, by the group file.
    pub groups: Vec<u32>,
    /// Home directory, where the passwd file has the user.
    pub home: Option<String>,
}

/// A strict decimal id: digits alone, no sign, no leading zero, below 2^32 - 1.
pub fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text.len() == 1 || !text.starts_with('0');
    text.parse().ok().filter(|id| digits && canonical && *id != u32::MAX)
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
        let uid = parse_id(fields.nth(1)?)?;
        let gid = parse_id(fields.next()?)?;
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// Name, id and members of each group.
fn group_entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = parse_id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// Home directory of a uid.
pub fn home(passwd: &str, uid: u32) -> Option<&str> {
    passwd_entries(passwd).find(|entry| entry.uid == uid).map(|entry| entry.home).filter(|home| !home.is_empty())
}

/// Name of a uid.
pub fn name(passwd: &str, uid: u32) -> Option<&str> {
    passwd_entries(passwd).find(|entry| entry.uid == uid).map(|entry| entry.name)
}

/// Looks up `user[:group]`.
///
/// # Errors
/// Which of the two is neither a decimal id nor in its file.
pub fn identify(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let entry = match parse_id(name) {
        Some(uid) => passwd_entries(passwd).find(|entry| entry.uid == uid),
        None => passwd_entries(passwd).find(|entry| entry.name == name),
    };
    let uid = match (&entry, parse_id(name)) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(format!("user {name:?}: it is neither a decimal id nor in /etc/passwd")),
    };
    let gid = match group_name {
        Some(group_name) => match parse_id(group_name) {
            Some(gid) => gid,
            None => group_entries(group)
                .find(|(name, ..)| *name == group_name)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| format!("group {group_name:?}: it is neither a decimal id nor in /etc/group"))?,
        },
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let groups = match (&entry, group_name) {
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
    fn ids_are_strict() {
        for bad in ["", "-1", "+1", "01", " 1", "1 ", "0x1", "4294967295", "99999999999"] {
            assert_eq!(parse_id(bad), None, "{bad:?}");
            assert!(identify(bad, PASSWD, GROUP).is_err(), "{bad:?}");
        }
        assert!(identify("nobody", PASSWD, GROUP).unwrap_err().contains("nobody"));
        assert!(identify("web:none", PASSWD, GROUP).unwrap_err().contains("none"));
    }
}
