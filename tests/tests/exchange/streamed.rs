//! A streamed completion, read chunk by chunk.

use anyhow::{Context, ensure};
use reqwest::Response;
use serde_json::Value;

/// The chunks that are to come.
pub struct Chunks {
    response: Response,
    rest: String,
}

impl Chunks {
    /// Those of an answer that is a stream.
    pub async fn of(response: Response) -> anyhow::Result<Self> {
        ensure!(response.status() == 200, "{}: {}", response.status(), response.text().await?);
        Ok(Chunks { response, rest: String::new() })
    }

    /// The next one; `None` at the stream's own end.
    pub async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            while let Some((frame, behind)) = self.rest.split_once("\n\n") {
                let (frame, behind) = (frame.to_owned(), behind.to_owned());
                self.rest = behind;
                let Some(data) = frame.strip_prefix("data: ") else { continue };
                if data == "[DONE]" {
                    return Ok(None);
                }
                let chunk: Value = serde_json::from_str(data)?;
                ensure!(chunk["error"].is_null(), "{chunk}");
                return Ok(Some(chunk));
            }
            let piece = self.response.chunk().await?.context("the stream broke off")?;
            self.rest.push_str(std::str::from_utf8(&piece)?);
        }
    }
}

/// What a chunk says.
pub fn said(chunk: &Value) -> Option<&str> {
    chunk["choices"][0]["delta"]["content"].as_str().filter(|said| !said.is_empty())
}
