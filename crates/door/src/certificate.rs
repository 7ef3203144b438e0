//! Who a client is by its certificate: words of the subject (X.509, RFC 5280), which TLS has found good before.
//!
//! - The subject decides and nothing else in the certificate. Its common name is for people.
//! - Every value of the two attributes that mean something must be readable, or the caller is nobody.
//! - `*` is not taken from a certificate, nor a role that no list names.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    identity::{Identity, Role, Tenants},
    refusal::Refusal,
};

/// An attribute of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attribute {
    /// The common name.
    CN,
    /// The organization.
    O,
    /// The organizational unit.
    OU,
}

impl Attribute {
    /// Its object identifier, in DER.
    fn oid(self) -> &'static [u8] {
        match self {
            Self::CN => &[0x55, 4, 3],
            Self::O => &[0x55, 4, 10],
            Self::OU => &[0x55, 4, 11],
        }
    }
}

#[derive(Clone, Debug)]
pub struct CertificateSettings {
    /// Whose values are tenants.
    pub tenant_attribute: Attribute,
    /// Whose values say the roles.
    pub role_attribute: Attribute,
    /// From those values to roles. Without any, the values are the roles' own names.
    pub roles: BTreeMap<String, Role>,
}

impl CertificateSettings {
    pub(crate) fn identity(&self, certificate: &[u8]) -> Result<Arc<Identity>, Refusal> {
        self.read(certificate).map(Arc::new).map_err(|what| Refusal::unauthenticated(format!("the client's certificate: {what}")))
    }

    fn read(&self, certificate: &[u8]) -> Result<Identity, String> {
        let subject = subject(certificate).ok_or("its subject cannot be read")?;
        let values = |attribute: Attribute| -> Result<Vec<&str>, String> {
            let values = subject.iter().filter(|(oid, _)| *oid == attribute.oid());
            values.map(|(_, value)| value.ok_or_else(|| format!("{attribute:?} is no plain text"))).collect()
        };
        let roles = values(self.role_attribute)?.into_iter().filter_map(|word| match self.roles.is_empty() {
            true => word.parse::<Role>().ok(),
            false => self.roles.get(word).copied(),
        });
        let roles = roles.collect();
        let tenants = values(self.tenant_attribute)?;
        if tenants.contains(&"*") {
            return Err(format!("{:?} names the tenant \"*\", which no certificate can", self.tenant_attribute));
        }
        let tenants = Tenants::of(tenants).map_err(|what| format!("{:?}: {what}", self.tenant_attribute))?;
        let name = values(Attribute::CN)?.first().map_or("a certificate without CN", |name| name);
        Ok(Identity { name: name.chars().take(NAME_CHARS_MAX).collect(), by: "certificate", roles, tenants })
    }
}

/// A name stands in messages and in the audit log.
const NAME_CHARS_MAX: usize = 256;

// DER: a tag, a length, and so many bytes.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
/// UTF8String, PrintableString, IA5String: all are UTF-8.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
/// The version of a certificate, which need not be there.
const VERSION: u8 = 0xa0;

/// Object identifier and value, `None` if that is no text, of each attribute of a certificate's subject.
type Subject<'c> = Vec<(&'c [u8], Option<&'c str>)>;

fn subject(certificate: &[u8]) -> Option<Subject<'_>> {
    let mut fields = Der(Der(certificate).take(SEQUENCE)?);
    let mut fields = Der(fields.take(SEQUENCE)?);
    if fields.0.first() == Some(&VERSION) {
        fields.next()?;
    }
    // Serial number, algorithm, issuer, validity.
    for _ in 0..4 {
        fields.next()?;
    }
    let mut names = Der(fields.take(SEQUENCE)?);
    let mut subject = vec![];
    while !names.0.is_empty() {
        let mut attributes = Der(names.take(SET)?);
        while !attributes.0.is_empty() {
            let mut attribute = Der(attributes.take(SEQUENCE)?);
            let oid = attribute.take(OID)?;
            let (tag, value) = attribute.next()?;
            let text = std::str::from_utf8(value).ok().filter(|_| TEXTS.contains(&tag));
            subject.push((oid, text));
        }
    }
    Some(subject)
}

/// What is still to be read.
struct Der<'c>(&'c [u8]);

impl<'c> Der<'c> {
    fn next(&mut self) -> Option<(u8, &'c [u8])> {
        let [tag, length, rest @ ..] = self.0 else { return None };
        let (length, rest) = match usize::from(*length) {
            length @ 0..=0x7f => (length, rest),
            // So many bytes of length; a certificate has less than 16 MiB.
            count @ 0x81..=0x83 => {
                let (length, rest) = rest.split_at_checked(count - 0x80)?;
                (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// The content of the next, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'c [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    use super::*;

    fn certificate(subject: &[(DnType, DnValue)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn settings(roles: &[(&str, Role)]) -> CertificateSettings {
        CertificateSettings {
            tenant_attribute: Attribute::O,
            role_attribute: Attribute::OU,
            roles: roles.iter().map(|(word, role)| ((*word).to_owned(), *role)).collect(),
        }
    }

    fn text(value: &str) -> DnValue {
        DnValue::Utf8String(value.to_owned())
    }

    #[test]
    fn the_subject_says_name_tenant_and_role() {
        let subject = |unit: &str, organization: &str| {
            let unit = DnValue::PrintableString(unit.try_into().unwrap());
            certificate(&[(DnType::CommonName, text("cöllector")), (DnType::OrganizationalUnitName, unit), (DnType::OrganizationName, text(organization))])
        };
        let who = settings(&[]).read(&subject("write", "shop")).unwrap();
        assert_eq!((who.name.as_str(), who.by), ("cöllector", "certificate"));
        assert_eq!(who.roles, [Role::Write].into());
        assert!(who.tenants.contains("shop") && !who.tenants.contains("other"));
        assert_eq!(settings(&[("collectors", Role::Write)]).read(&subject("collectors", "shop")).unwrap().roles, [Role::Write].into());
        // The roles' own names mean nothing where others were given.
        assert!(settings(&[("collectors", Role::Write)]).read(&subject("admin", "shop")).unwrap().roles.is_empty());
        assert!(settings(&[]).read(&subject("nothing", "shop")).unwrap().roles.is_empty());
        assert!(settings(&[]).read(&subject("read", "*")).unwrap_err().contains("which no certificate can"));
        assert!(settings(&[]).read(&subject("read", "../a")).unwrap_err().contains("cannot be a tenant"));
    }

    #[test]
    fn what_cannot_be_read_is_nobody() {
        let latin = DnValue::BmpString("shop".try_into().unwrap());
        let certificate = certificate(&[(DnType::OrganizationName, latin), (DnType::OrganizationalUnitName, text("read"))]);
        assert!(settings(&[]).read(&certificate).unwrap_err().contains("O is no plain text"));
        for length in 0..certificate.len().min(120) {
            assert!(settings(&[]).read(&certificate[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = settings(&[]).read(&bytes);
            let whole = [&[SEQUENCE, bytes.len() as u8][..], &bytes].concat();
            let _ = settings(&[]).read(&whole);
        }
    }
}
