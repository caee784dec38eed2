"""Speed of this project against named others, as ratios within one run."""
