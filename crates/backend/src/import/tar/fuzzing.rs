//! What the fuzz targets see of archives: where their members are.

use std::io::Cursor;

use super::{Member, find, index};

/// A name in an archive, and where its content is: offset and size. Links lead to the content of another name, or nowhere.
pub type Found = (String, Option<(u64, u64)>);

/// The members of an archive by name.
///
/// # Errors
/// Why it can't be read.
pub fn archive_members(bytes: &[u8]) -> Result<Vec<Found>, String> {
    let members = index(&mut Cursor::new(bytes), bytes.len() as u64).map_err(|error| error.to_string())?;
    let place = |name: &String| find(&members, name).map(|place| (place.offset, place.size));
    let mut found: Vec<Found> = members.keys().map(|name| (name.clone(), place(name))).collect();
    found.sort();
    // A link is never a way to what the archive has no file for.
    let files: Vec<_> = members.values().filter_map(|member| if let Member::File(place) = member { Some(place) } else { None }).collect();
    assert!(found.iter().all(|(_, place)| place.is_none_or(|place| files.iter().any(|file| (file.offset, file.size) == place))));
    Ok(found)
}
