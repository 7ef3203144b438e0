//! A client that goes away takes its query with it.

use test_stores::{Fault, Kind, TestStore};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{data::Data, server::Server};

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_place() {
    let mut stuck = None;
    let data = Data::behind(|inner| {
        // Never answers a read of a data file.
        let rule = |asked: &test_stores::Asked| if asked.ends_with(".parquet") { Fault::Stall } else { Fault::None };
        stuck.insert(TestStore::with_rule(inner, rule)).clone()
    })
    .await;
    let stuck = stuck.expect("a store was made");
    data.store(0xfeed).await;
    let server = Server::over(data, false, |config| config.queries_max = 1).await;

    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(b"GET /api/search?q=%7B%7D HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    stuck.asked(Kind::Get, ".parquet").await;
    // The one place is taken: even what needs no data is refused.
    assert_eq!(server.get("/api/search/tags?scope=intrinsic").await.0, 429);
    drop(client);
    while server.get("/api/search/tags?scope=intrinsic").await.0 == 429 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get("/api/search/tags?scope=intrinsic").await.0, 200);
}
