//! A persistent, sparse vector: a clone shares everything, a change copies one page of 64.
//!
//! Pages that were never written do not exist; reading them gives none.

use std::sync::Arc;

const PAGE: usize = 64;
const BLOCK: usize = 128;

#[derive(Clone, Debug)]
pub(super) struct Paged<T> {
    blocks: Vec<Option<Arc<Block<T>>>>,
}

type Block<T> = [Option<Arc<[T; PAGE]>>; BLOCK];

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Paged { blocks: Vec::new() }
    }
}

impl<T: Clone + Default> Paged<T> {
    /// Whether nothing was ever written.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        let block = self.blocks.get(index / (PAGE * BLOCK))?.as_ref()?;
        let page = block.get(index / PAGE % BLOCK)?.as_ref()?;
        page.get(index % PAGE)
    }

    /// The indices, from and to, of each page that the other has not the same in memory, until `visit` says
    /// false; then it is false too.
    pub(super) fn differing(
        &self,
        other: &Paged<T>,
        visit: &mut dyn FnMut(u32, u32) -> bool,
    ) -> bool {
        let is_same = |a: Option<&Arc<[T; PAGE]>>, b: Option<&Arc<[T; PAGE]>>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        for outer in 0..self.blocks.len().max(other.blocks.len()) {
            let [a, b] = [self, other].map(|paged| paged.blocks.get(outer)?.as_ref());
            if matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(a, b)) {
                continue;
            }
            for inner in 0..BLOCK {
                let [a, b] = [a, b].map(|block| block?.get(inner)?.as_ref());
                let from = u32::try_from((outer * BLOCK + inner) * PAGE).unwrap_or(u32::MAX);
                if !is_same(a, b) && !visit(from, from.saturating_add(PAGE as u32)) {
                    return false;
                }
            }
        }
        true
    }

    /// The element to change; it is the default value if it was never written.
    pub(super) fn at_mut(&mut self, index: u32) -> &mut T {
        let index = index as usize;
        let (outer, inner, rest) = (index / (PAGE * BLOCK), index / PAGE % BLOCK, index % PAGE);
        if self.blocks.len() <= outer {
            self.blocks.resize_with(outer + 1, || None);
        }
        #[expect(clippy::indexing_slicing, reason = "all three are below the lengths, see above")]
        {
            let block =
                self.blocks[outer].get_or_insert_with(|| Arc::new(std::array::from_fn(|_| None)));
            let page = Arc::make_mut(block)[inner]
                .get_or_insert_with(|| Arc::new(std::array::from_fn(|_| T::default())));
            &mut Arc::make_mut(page)[rest]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_independent() {
        let mut paged = Paged::default();
        for index in [0u32, 63, 64, 8191, 8192, 1_000_000] {
            *paged.at_mut(index) = index + 1;
        }
        let old = paged.clone();
        *paged.at_mut(64) = 7;
        assert_eq!((old.get(64), paged.get(64)), (Some(&65), Some(&7)));
        assert_eq!(paged.get(1_000_000), Some(&1_000_001));
        assert_eq!((paged.get(65), paged.get(500_000)), (Some(&0), None));
    }

    #[test]
    fn what_differs_is_found_by_pages() {
        let mut old = Paged::default();
        for index in 0..20_000_u32 {
            *old.at_mut(index) = index;
        }
        let differing = |a: &Paged<u32>, b: &Paged<u32>| {
            let mut pages = Vec::new();
            assert!(a.differing(b, &mut |from, to| {
                pages.push((from, to));
                true
            }));
            pages
        };
        let mut new = old.clone();
        assert_eq!(differing(&old, &new), []);
        for index in [64, 127, 19_999, 1_000_000] {
            *new.at_mut(index) = 7;
        }
        let pages = [(64, 128), (19_968, 20_032), (999_936 + 64, 1_000_000 + 64)];
        assert_eq!(differing(&old, &new), pages);
        assert_eq!(differing(&new, &old), pages);
        assert!(!old.differing(&new, &mut |_, _| false));
    }
}
