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
}
