//! What is listed about a subject: signatures, attestations, whatever names it as its `subject`.

use super::Repository;
use crate::digest::Digest;
use crate::error::Error;
use crate::oci::Descriptor;

impl Repository {
    /// Descriptors of the manifests that name `subject`, in the order of their digests after
    /// `after`, with artifact type and annotations, and of that artifact type if one is given: as
    /// many as have room in so many bytes of JSON, but one at least. And after which one to go on,
    /// when there are more. A subject that nobody knows has none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] once for one that rotted, [`Error::Busy`], [`Error::Disk`]. What else cannot be read
    /// is left out, and told in the log.
    pub fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&Digest>,
        room: usize,
    ) -> Result<(Vec<Descriptor>, Option<Digest>), Error> {
        let mut digests = self.digests_in(&self.subject(subject))?;
        digests.retain(|digest| after.is_none_or(|after| digest > after));
        digests.sort();
        let (mut found, mut used) = (Vec::new(), 0);
        let mut last = None;
        for digest in digests {
            let manifest = match self.listed_manifest(&digest) {
                Ok(manifest) => manifest,
                // Without a word a lost signature would pass for one that never was.
                Err(
                    error @ (Error::Busy
                    | Error::Disk { .. }
                    | Error::Stopped
                    | Error::Corrupt { .. }),
                ) => return Err(error),
                // An entry without its manifest counts for nothing.
                Err(Error::NotFound { .. }) => continue,
                Err(error) => {
                    tracing::error!(%digest, %error, "a referrer cannot be listed");
                    continue;
                }
            };
            if artifact_type.is_some_and(|wanted| manifest.artifact_type() != Some(wanted)) {
                continue;
            }
            let mut descriptor = manifest.descriptor();
            descriptor.artifact_type = manifest.artifact_type().map(str::to_owned);
            descriptor.annotations = manifest.annotations().clone();
            let comma = usize::from(!found.is_empty());
            let size = serde_json::to_vec(&descriptor).map_or(0, |json| json.len() + comma);
            if used + size > room && !found.is_empty() {
                return Ok((found, last));
            }
            used += size;
            last = Some(digest);
            found.push(descriptor);
        }
        Ok((found, None))
    }
}
