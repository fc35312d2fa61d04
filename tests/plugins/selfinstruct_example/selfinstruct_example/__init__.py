"""An example of every kind of plugin for selfinstruct."""
