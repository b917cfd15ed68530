//! `fermyon:spin/key-value` and `spin:key-value`: the same stores as `wasi:keyvalue`, by Spin's interfaces.

use super::bindings::fermyon::spin::key_value as v2;
use super::bindings::spin::key_value::key_value as v3;
use super::keyvalue::{Bucket, Refused};
use crate::receipt::Kind;
use crate::runtime::sandbox::{DataView, HasDataView, State};
use crate::storage::kv::{Store, StoreError};
use std::sync::Arc;
use wasmtime::component::{Accessor, FutureReader, Linker, Resource, StreamReader};

impl v2::Host for DataView<'_> {}

impl v2::HostStore for DataView<'_> {
    async fn open(&mut self, label: String) -> wasmtime::Result<Result<Resource<Bucket>, v2::Error>> {
        Ok(self.open_store(&label).map_err(Into::into))
    }

    async fn get(
        &mut self,
        store: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, v2::Error>> {
        Ok(self.store(&store)?.get(&key).await.map_err(Into::into))
    }

    async fn set(
        &mut self,
        store: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), v2::Error>> {
        Ok(self.store(&store)?.set(&key, value).await.map_err(Into::into))
    }

    async fn delete(&mut self, store: Resource<Bucket>, key: String) -> wasmtime::Result<Result<(), v2::Error>> {
        Ok(self.store(&store)?.delete(&key).await.map_err(Into::into))
    }

    async fn exists(&mut self, store: Resource<Bucket>, key: String) -> wasmtime::Result<Result<bool, v2::Error>> {
        Ok(self.store(&store)?.exists(&key).await.map_err(Into::into))
    }

    async fn get_keys(&mut self, store: Resource<Bucket>) -> wasmtime::Result<Result<Vec<String>, v2::Error>> {
        Ok(self.store(&store)?.keys().await.map_err(Into::into))
    }

    async fn drop(&mut self, store: Resource<Bucket>) -> wasmtime::Result<()> {
        self.close_store(store)
    }
}

impl v3::Host for DataView<'_> {}

impl v3::HostStore for DataView<'_> {
    async fn drop(&mut self, store: Resource<Bucket>) -> wasmtime::Result<()> {
        self.close_store(store)
    }
}

type Keys = (StreamReader<String>, FutureReader<Result<(), v3::Error>>);

impl v3::HostStoreWithStore<State> for HasDataView {
    async fn open(
        accessor: &Accessor<State, Self>,
        label: String,
    ) -> wasmtime::Result<Result<Resource<Bucket>, v3::Error>> {
        Ok(accessor.with(|mut access| access.get().open_store(&label)).map_err(Into::into))
    }

    async fn get(
        accessor: &Accessor<State, Self>,
        store: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, v3::Error>> {
        Ok(store_of(accessor, &store)?.get(&key).await.map_err(Into::into))
    }

    async fn set(
        accessor: &Accessor<State, Self>,
        store: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), v3::Error>> {
        Ok(store_of(accessor, &store)?.set(&key, value).await.map_err(Into::into))
    }

    async fn delete(
        accessor: &Accessor<State, Self>,
        store: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), v3::Error>> {
        Ok(store_of(accessor, &store)?.delete(&key).await.map_err(Into::into))
    }

    async fn exists(
        accessor: &Accessor<State, Self>,
        store: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<bool, v3::Error>> {
        Ok(store_of(accessor, &store)?.exists(&key).await.map_err(Into::into))
    }

    /// The keys are bounded, and there before the guest reads the first.
    async fn get_keys(accessor: &Accessor<State, Self>, store: Resource<Bucket>) -> wasmtime::Result<Keys> {
        let (keys, ended) = match store_of(accessor, &store)?.keys().await {
            Ok(keys) => (keys, Ok(())),
            Err(error) => (Vec::new(), Err(v3::Error::from(error))),
        };
        accessor.with(|mut access| {
            let keys = StreamReader::new(&mut access, keys)?;
            let ended = FutureReader::new(&mut access, async { Ok::<_, wasmtime::Error>(ended) })?;
            Ok((keys, ended))
        })
    }
}

fn store_of(accessor: &Accessor<State, HasDataView>, store: &Resource<Bucket>) -> wasmtime::Result<Arc<Store>> {
    accessor.with(|mut access| access.get().store(store))
}

/// The two versions have the same errors, by different types.
macro_rules! errors_of {
    ($version:ident) => {
        impl From<Refused> for $version::Error {
            fn from(refused: Refused) -> Self {
                match refused {
                    Refused::AccessDenied => Self::AccessDenied,
                    Refused::TooMany => Self::StoreTableFull,
                }
            }
        }

        impl From<StoreError> for $version::Error {
            fn from(error: StoreError) -> Self {
                Self::Other(error.to_string())
            }
        }
    };
}

errors_of!(v2);
errors_of!(v3);

/// Adds what a component of `kind` may import.
pub(super) fn link(linker: &mut Linker<State>, kind: Kind) -> wasmtime::Result<()> {
    v2::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    if kind == Kind::Http03 {
        v3::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    }
    Ok(())
}
