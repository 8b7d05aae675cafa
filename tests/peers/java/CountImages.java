import java.io.IOException;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.io.BytesWritable;
import org.apache.hadoop.io.Text;
import org.apache.hadoop.mapreduce.Job;
import org.apache.hadoop.mapreduce.Mapper;
import org.apache.hadoop.mapreduce.Reducer;
import org.apache.hadoop.mapreduce.lib.input.SequenceFileInputFormat;
import org.apache.hadoop.mapreduce.lib.output.FileOutputFormat;

/** A stock MapReduce job: `output input ...` writes key, length and SHA-256 of each image of containers, and counts them. */
public class CountImages {
    enum Found { IMAGES, BYTES }

    public static class Digest extends Mapper<Text, BytesWritable, Text, Text> {
        @Override
        protected void map(Text key, BytesWritable value, Context context) throws IOException, InterruptedException {
            if (key.charAt(0) == 1) {
                return;     // the container's own records
            }
            context.getCounter(Found.IMAGES).increment(1);
            context.getCounter(Found.BYTES).increment(value.getLength());
            context.write(key, new Text(value.getLength() + "\t" + digest(value)));
        }

        private static String digest(BytesWritable value) throws IOException {
            try {
                return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(value.copyBytes()));
            } catch (NoSuchAlgorithmException absent) {
                throw new IOException(absent);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        var job = Job.getInstance(new Configuration(), "count images");
        job.setInputFormatClass(SequenceFileInputFormat.class);
        SequenceFileInputFormat.setMaxInputSplitSize(job, 256 * 1024);      // several for each container
        for (int number = 1; number < arguments.length; number++) {
            SequenceFileInputFormat.addInputPath(job, new Path(arguments[number]));
        }
        job.setMapperClass(Digest.class);
        job.setReducerClass(Reducer.class);
        job.setOutputKeyClass(Text.class);
        job.setOutputValueClass(Text.class);
        FileOutputFormat.setOutputPath(job, new Path(arguments[0]));
        if (!job.waitForCompletion(true)) {
            System.exit(1);
        }
        var counters = job.getCounters();
        System.out.println(counters.findCounter(Found.IMAGES).getValue() + " images, "
            + counters.findCounter(Found.BYTES).getValue() + " bytes");
    }
}
