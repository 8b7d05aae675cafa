"""Where pictures lie: original files online, containers in a folder or in HDFS."""
