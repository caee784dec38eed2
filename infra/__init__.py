"""What turns this repository into a team's training platform: servers, images, manifests."""
