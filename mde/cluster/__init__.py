"""Everything that imports Ray: conversion, the feed, training on workers."""
