"""Raw files to Parquet shards to arrays. No torch and no Ray here: decode tasks stay small."""
