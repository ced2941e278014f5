//! Merkle trees as in RFC 6962 §2.1: the root of a run of events, and the proof that one of them is in it.
//!
//! A leaf's data is the 32-byte hash of an event, in stream order.

use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Digest32 = [u8; 32];

/// Hash of a leaf: SHA-256(0x00 ‖ data).
#[must_use]
pub fn leaf(data: &[u8]) -> Digest32 {
    Sha256::new().chain_update([0u8]).chain_update(data).finalize().into()
}

fn node(left: &Digest32, right: &Digest32) -> Digest32 {
    Sha256::new().chain_update([1u8]).chain_update(left).chain_update(right).finalize().into()
}

/// A tree that is grown leaf by leaf and remembers only its right edge: 32 bytes for each doubling of its size.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    size: u64,
    // Roots of the full subtrees from left to right, one for each bit set in `size`.
    edge: Vec<Digest32>,
}

impl Tree {
    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf with the given data.
    pub fn push(&mut self, data: &[u8]) {
        let mut hash = leaf(data);
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.edge.pop() {
                hash = node(&left, &hash);
            }
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// The root; of an empty tree the hash of nothing.
    #[must_use]
    pub fn root(&self) -> Digest32 {
        let mut rest = self.edge.iter().rev();
        let Some(last) = rest.next() else { return Sha256::digest(b"").into() };
        rest.fold(*last, |right, left| node(left, &right))
    }
}

/// Root over the given leaf data.
#[must_use]
pub fn root(leaves: &[Digest32]) -> Digest32 {
    let mut tree = Tree::default();
    leaves.iter().for_each(|data| tree.push(data));
    tree.root()
}

/// The audit path of leaf `index`, from the leaf upwards. `None` when there is no such leaf.
#[must_use]
pub fn path(index: usize, leaves: &[Digest32]) -> Option<Vec<Digest32>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut path, mut index, mut leaves) = (Vec::new(), index, leaves);
    while leaves.len() > 1 {
        // The largest power of two below the number of leaves.
        let split = 1 << (leaves.len() - 1).ilog2();
        let (left, right) = leaves.split_at(split);
        if index < split {
            path.push(root(right));
            leaves = left;
        } else {
            path.push(root(left));
            leaves = right;
            index -= split;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `path` leads from the leaf `index` of `size` with this data to `root` (RFC 9162 §2.1.3.2).
#[must_use]
pub fn verify(data: &[u8], index: u64, size: u64, path: &[Digest32], root: &Digest32) -> bool {
    if index >= size {
        return false;
    }
    let (mut place, mut last, mut hash) = (index, size - 1, leaf(data));
    for sibling in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node(sibling, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digest: Digest32) -> String {
        digest.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        // Test vectors of the Certificate Transparency reference implementation.
        let data: [&[u8]; 3] = [b"", b"\x00", b"\x10"];
        let mut tree = Tree::default();
        assert_eq!(hex(tree.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        tree.push(data[0]);
        assert_eq!(hex(tree.root()), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        tree.push(data[1]);
        assert_eq!(hex(tree.root()), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        tree.push(data[2]);
        assert_eq!(hex(tree.root()), "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
    }

    #[test]
    fn every_leaf_has_a_proof_and_no_other_leaf_or_place_fits_it() {
        for size in 1..40u8 {
            let leaves: Vec<Digest32> = (0..size).map(|i| [i; 32]).collect();
            let top = root(&leaves);
            for (index, data) in leaves.iter().enumerate() {
                let path = path(index, &leaves).unwrap();
                let (index, size) = (index as u64, u64::from(size));
                assert!(verify(data, index, size, &path, &top));
                assert!(!verify(&[99; 32], index, size, &path, &top));
                assert!(!verify(data, index, size, &path, &[0; 32]));
                assert!(size == 1 || !verify(data, (index + 1) % size, size, &path, &top));
                for bent in 0..path.len() {
                    let mut path = path.clone();
                    path[bent][7] ^= 1;
                    assert!(!verify(data, index, size, &path, &top));
                }
                assert!(!verify(data, index, size, &[path.as_slice(), &[[0; 32]]].concat(), &top));
            }
            assert_eq!(path(usize::from(size), &leaves), None);
        }
    }
}
