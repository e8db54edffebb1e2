//! The plainest relay that tokio allows: what the gateway proxy's own event
//! loop is compared with. Takes the same arguments as the `gateway` example.

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    for argument in std::env::args().skip(2) {
        let (listen, endpoint) = argument.split_once('=').context("LISTEN=ENDPOINT")?;
        let endpoint: std::net::SocketAddr = endpoint.parse()?;
        let listener = TcpListener::bind(listen).await?;
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(relay(client, endpoint));
            }
        });
    }
    std::future::pending().await
}

async fn relay(mut client: TcpStream, endpoint: std::net::SocketAddr) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(endpoint).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}
