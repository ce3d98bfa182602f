//! Keys and signatures: Ed25519 (RFC 8032).

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::error::{Result, SharedError};

/// The prefix of a public key's text.
const PUBLIC: &str = "ed25519:";
/// The prefix of a secret key's text.
const SECRET: &str = "secret-ed25519:";

/// A key that verifies signatures. Its text is `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Whether the owner of this key signed these bytes.
    pub(super) fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(bytes, signature).is_ok()
    }

    /// The first twelve digits, for display.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", hex::encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = SharedError;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = text.trim().strip_prefix(PUBLIC).and_then(decode);
        bytes.map(Self).ok_or_else(|| {
            SharedError::unusable(
                format!("`{text}` is not a public key"),
                "a public key is `ed25519:` and 64 hexadecimal digits; `vadpipe store keygen` prints yours",
            )
        })
    }
}

/// A key that signs. Its text is `secret-ed25519:` and 64 hexadecimal digits. Debug output does not show it.
pub struct SecretKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl SecretKey {
    /// A new key.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn generate() -> Result<Self> {
        let mut seed = [0; 32];
        let filled = SystemRandom::new().fill(&mut seed);
        filled.map_err(|_| SharedError::unusable("the system has no random numbers for a key", ""))?;
        Self::of_seed(seed)
    }

    fn of_seed(seed: [u8; 32]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed);
        let pair = pair.map_err(|_| SharedError::unusable("the secret key is not a key", ""))?;
        Ok(Self { seed, pair })
    }

    /// The key that verifies its signatures.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        // An Ed25519 public key has 32 bytes.
        bytes.iter_mut().zip(self.pair.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        PublicKey(bytes)
    }

    /// Signs bytes.
    pub(super) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_owned()
    }

    /// The text of the key file.
    pub fn secret_text(&self) -> String {
        format!("{SECRET}{}\n", hex::encode(self.seed))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret key of {}", self.public())
    }
}

impl FromStr for SecretKey {
    type Err = SharedError;

    fn from_str(text: &str) -> Result<Self> {
        // The text is not repeated in the error: it may be a secret.
        let seed = text.trim().strip_prefix(SECRET).and_then(decode);
        let seed = seed.ok_or_else(|| {
            SharedError::unusable("the key file holds no secret key", "make one with `vadpipe store keygen`")
        })?;
        Self::of_seed(seed)
    }
}

fn decode(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_of_rfc_8032() {
        // Section 7.1, test 2.
        let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
        let secret: SecretKey = format!("{SECRET}{seed}").parse().unwrap();
        let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(secret.public().to_string(), format!("{PUBLIC}{public}"));
        let signature = secret.sign(&[0x72]);
        assert_eq!(
            hex::encode(&signature),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
        assert!(secret.public().verifies(&[0x72], &signature) && !secret.public().verifies(&[0x73], &signature));
    }

    #[test]
    fn keys_survive_their_text_and_errors_do_not_repeat_a_secret() {
        let secret = SecretKey::generate().unwrap();
        let again: SecretKey = secret.secret_text().parse().unwrap();
        assert_eq!(again.public(), secret.public());
        assert_eq!(secret.public().to_string().parse::<PublicKey>().unwrap(), secret.public());
        assert_ne!(SecretKey::generate().unwrap().public(), secret.public());
        let cut = &secret.secret_text()[..40];
        let error = cut.parse::<SecretKey>().unwrap_err().to_string();
        assert!(!error.contains(&cut[20..]), "{error}");
        assert!(!format!("{secret:?}").contains(&secret.secret_text()[20..40]));
        for wrong in ["", "ed25519:", "ed25519:zz", "rsa:00", &secret.public().to_string()[..70]] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }
}
