//! A client that goes away takes its query with it.

use std::{
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, path::Path,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify};

use crate::{data::Data, server::Server};

/// Never answers a read of a data file, and says when one was asked for.
#[derive(Debug)]
struct Stuck {
    inner: Arc<dyn ObjectStore>,
    asked: Arc<Notify>,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stuck")
    }
}

#[async_trait]
impl ObjectStore for Stuck {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if location.as_ref().ends_with(".parquet") {
            self.asked.notify_one();
            std::future::pending::<()>().await;
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_place() {
    let asked = Arc::new(Notify::new());
    let noted = Arc::clone(&asked);
    let data = Data::behind(|inner| Arc::new(Stuck { inner, asked: noted })).await;
    data.store(0xfeed).await;
    let server = Server::over(data, false, |config| config.queries_max = 1).await;

    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(b"GET /api/search?q=%7B%7D HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    asked.notified().await;
    // The one place is taken: even what needs no data is refused.
    assert_eq!(server.get("/api/search/tags?scope=intrinsic").await.0, 429);
    drop(client);
    while server.get("/api/search/tags?scope=intrinsic").await.0 == 429 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get("/api/search/tags?scope=intrinsic").await.0, 200);
}
