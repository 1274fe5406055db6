//! Redis commands over a session, with a stand-in for the node.
